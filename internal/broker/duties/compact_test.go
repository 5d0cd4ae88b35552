package duties

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/allowance"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

// judgedBy has a keeper that does not lead read all that is kept, and judge it without a turn of
// its own.
func judgedBy(t *testing.T, k *Keeper) *reading {
	t.Helper()
	read := &reading{keeper: k, moved: make(chan struct{}), judge: duty.NewJudge(k.duty)}
	if err := read.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		err := read.catchUp(t.Context())
		if err == nil {
			return read
		}
		if !errors.Is(err, errAnew) { // it may have connected once more meanwhile
			t.Fatal(err)
		}
	}
}

// kept counts the messages of acknowledgements.
func (r *reading) kept(t *testing.T) int {
	t.Helper()
	js, err := jetstream.New(r.keeper.nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), r.keeper.stream.Name)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(r.keeper.prefix+".ack.>"))
	if err != nil {
		t.Fatal(err)
	}
	return len(info.State.Subjects)
}

// acknowledgeAll has people acknowledge everything up to a place, each in a message of its own.
func acknowledgeAll(t *testing.T, k *Keeper, upTo uint64, people ...string) {
	t.Helper()
	for _, id := range people {
		k.Acknowledge(ackOf(id, upTo))
		if err := k.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// pass has what was read up to now lie so far back that no duty can be opened for it.
func (r *reading) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passed = milestones{milestone{r.at + 1, time.Now()}, milestone{r.at + 1, time.Now()}}
}

// judgeNow has what came of a duty take its place.
func judgeNow(t *testing.T, k *Keeper, d *duty.Duty, came duty.Results) {
	t.Helper()
	last, err := k.stream.Last(t.Context(), k.subjectOf(d.Event.TenantID, d.At, d.Part))
	if err != nil {
		t.Fatal(err)
	}
	kept := *d
	kept.Kept = last
	if err := k.over(t.Context(), &kept, came); err != nil {
		t.Fatal(err)
	}
}

// shorten has what is kept made shorter, in both steps.
func (r *reading) shorten(ctx context.Context, from int64) error {
	if err := r.compact(ctx, from); err != nil {
		return err
	}
	return r.compact(ctx, from)
}

func (r *reading) counts(place uint64) map[duty.State]int {
	return r.judge.Results("acme", dutyOf(place, time.Hour, "a").At, []int{0}, duty.Query{Limit: 10}).Counts
}

// reader is a keeper that judges nothing by itself.
func reader(t *testing.T) *Keeper {
	t.Helper()
	return readerAt(t, natstest.Start(t, 1).URL(0))
}

func readerAt(t *testing.T, url string) *Keeper {
	t.Helper()
	return readerOf(t, url, natstest.Prefix(), 1)
}

func readerOf(t *testing.T, url, prefix string, replicas int) *Keeper {
	t.Helper()
	nc := natstest.Connect(t, url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectBufSize(-1))
	k, err := Open(t.Context(), nc, Config{Prefix: prefix, Replicas: replicas, Alone: true, Node: "n", Key: func() *history.Key { return key }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	k.Judge(duty.Config{Box: outbox.NewMemory(outbox.MemoryConfig{}), People: nobody{}, Pools: allowance.New(plan.Of(1 << 30)), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(k.Close)
	return k
}

// Acknowledgements are forgotten once no deadline waits for them. Where one does, they are once
// there are many: what has come of it is kept with it, and whoever judges next knows it.
func TestAcknowledgementsAreForgotten(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	is.NoErr(k.Open(t.Context(), dutyOf(1, time.Hour, "a", "b", "c")))
	acknowledgeAll(t, k, 1, "a")
	for i := range 30 {
		acknowledgeAll(t, k, 1, fmt.Sprint("d", i))
	}
	first := judgedBy(t, k)
	is.NoErr(first.shorten(t.Context(), 0))
	is.Equal(first.kept(t), 31) // a duty may be opened that they are of

	first.pass()
	is.NoErr(first.shorten(t.Context(), compactFrom))
	is.Equal(first.kept(t), 31) // they are few
	is.NoErr(first.compact(t.Context(), 0))
	is.Equal(first.kept(t), 31) // the disk may not have yet what is kept in their place
	is.NoErr(first.compact(t.Context(), 0))
	is.Equal(first.kept(t), 0)

	acknowledgeAll(t, k, 1, "b")
	next := judgedBy(t, k)
	is.Equal(next.counts(1), map[duty.State]int{duty.Acknowledged: 2, duty.Owed: 1})
	next.pass()
	is.NoErr(next.shorten(t.Context(), 0))
	is.Equal(next.kept(t), 1) // it is less than the duty
	next.judge = duty.NewJudge(k.duty)
	is.NoErr(next.shorten(t.Context(), compactFrom))
	is.Equal(next.kept(t), 0) // and no duty waits for it
}

// What came of events is kept for a day, and not read by who judges next.
func TestWhatIsOverIsNotReadAgain(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	for place := range uint64(20) {
		d := dutyOf(place+1, time.Hour, "a")
		is.NoErr(k.Open(t.Context(), d))
		judgeNow(t, k, d, duty.Results{List: []duty.Result{{Profile: d.Recipients[0], State: duty.Acknowledged, At: time.Now()}}})
	}
	is.NoErr(k.Open(t.Context(), dutyOf(21, time.Hour, "a")))
	first := judgedBy(t, k)
	all := first.bytes
	first.pass()
	is.NoErr(first.shorten(t.Context(), 0))
	next := judgedBy(t, k)
	is.True(next.bytes < all/10)
	_, open := next.judge.Standing(dutyOf(21, time.Hour, "a"))
	is.True(open)
	came, err := k.Results(t.Context(), "acme", dutyOf(1, time.Hour, "a").At, duty.Query{Limit: 1})
	is.NoErr(err)
	is.Equal(came.List[0].State, duty.Acknowledged)
}

// A judge ends at any step of making what is kept shorter: who judges next knows all the same.
func TestAJudgeThatEndsAsItMakesItShorter(t *testing.T) {
	t.Parallel()
	const duties = 3
	const steps = duties + 2 // each is kept anew, then the beginning, then what was before is removed
	for done := range steps + 1 {
		t.Run(fmt.Sprint("after ", done), func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			proxy := natstest.Start(t, 1).Proxies(t)[0]
			k := readerAt(t, proxy.URL())
			for place := range uint64(duties) {
				d := dutyOf(place+1, time.Hour, "a", "b", "c")
				d.Absent = d.Recipients[2:]
				is.NoErr(k.Open(t.Context(), d))
				is.NoErr(k.early(t.Context(), d, time.Now()))
			}
			acknowledgeAll(t, k, duties, "a")
			first := judgedBy(t, k)
			first.pass()
			acknowledgeAll(t, k, 1, "b")
			is.NoErr(first.catchUp(t.Context()))
			first.mu.Lock()
			first.bytes = 1 << 30 // it is worth it
			first.mu.Unlock()
			var begun atomic.Int32
			proxy.Rule(func(m *natstest.Message) natstest.Verdict {
				isStep := !m.FromServer && (strings.HasPrefix(m.Subject, k.prefix) || strings.HasPrefix(m.Subject, "$JS.API.STREAM.PURGE."))
				return natstest.Verdict{Drop: isStep && int(begun.Add(1)) > done}
			})
			err := first.shorten(t.Context(), 0)
			is.Equal(err == nil, done == steps)
			proxy.Rule(nil)
			begin, err := k.begin(t.Context())
			is.NoErr(err)
			is.Equal(begin > 1, done > duties)
			next := judgedBy(t, k)
			is.Equal(next.counts(1), map[duty.State]int{duty.Acknowledged: 2, duty.Reported: 1})
			is.Equal(next.counts(duties), map[duty.State]int{duty.Acknowledged: 1, duty.Owed: 1, duty.Reported: 1})
		})
	}
}

// A judge was making what is kept shorter as the stream was made anew: the place that it says is of
// the one before, and all of the new one is read.
func TestABeginningOfAnotherStream(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	d := dutyOf(1, time.Hour, "a")
	is.NoErr(k.Open(t.Context(), d))
	is.NoErr(k.write(t.Context(), stream.NewMessage(k.prefix+beginSubject, []byte(stream.FormatSeq(1000)))))
	is.True(judgedBy(t, k).knows(d))
}

// A duty that this version does not understand is read by who judges next, which may: what was
// acknowledged since it was kept stays, too.
func TestWhatIsNotUnderstoodStays(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	acknowledgeAll(t, k, 1, "a")
	d := dutyOf(1, time.Hour, "a", "b")
	is.NoErr(k.write(t.Context(), stream.NewMessage(k.subjectOf("acme", d.At, 0), []byte("?"))))
	acknowledgeAll(t, k, 1, "b")
	first := judgedBy(t, k)
	first.pass()
	is.NoErr(first.shorten(t.Context(), 0))
	is.Equal(first.kept(t), 1) // b's
	is.Equal(k.unread.Load(), int64(1))
	judgedBy(t, k)
	is.Equal(k.unread.Load(), int64(2))
}

// Hubs of another version tell of each connection that ends: what is not understood of it is counted,
// and logged once a second.
func TestWhatIsNotUnderstoodIsLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		logs := &testkit.Buffer{}
		k := &Keeper{cfg: Config{Logger: slog.New(slog.NewTextHandler(logs, nil))}}
		ended := &nats.Msg{Subject: "rt.dutyended", Data: []byte("?")}
		for range 1000 {
			k.hearEnded(ended)
		}
		is.Equal(strings.Count(logs.String(), "\n"), 1)
		time.Sleep(time.Second)
		k.hearEnded(ended)
		is.Equal(strings.Count(logs.String(), "\n"), 2)
		is.True(strings.Contains(logs.String(), "subject=rt.dutyended times=1000"))
		is.Equal(k.unread.Load(), int64(1001))
	})
}

// What a judge keeps anew is as it was: how much is left, when each acknowledged, who was
// reported early and when. It takes the place of nothing else.
func TestADutyIsKeptAnewAsItWas(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	d := dutyOf(1, time.Hour, "a", "b", "c")
	d.Absent = d.Recipients[2:]
	is.NoErr(k.Open(t.Context(), d))
	first := judgedBy(t, k)
	_, _, _, ready := first.judge.KeptUpTo(first.at)
	is.True(!ready) // c is yet to be reported
	early := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	is.NoErr(k.early(t.Context(), d, early))
	acknowledgeAll(t, k, 1, "a")
	is.NoErr(first.catchUp(t.Context()))
	was, _ := first.judge.Standing(d)
	is.NoErr(first.keepOneAnew(t.Context(), d))

	next := judgedBy(t, k)
	now, open := next.judge.Standing(d)
	is.True(open)
	is.Equal(now.Came[0].At.UnixMilli(), was.Came[0].At.UnixMilli())
	is.Equal(now.Came[1].State, duty.Owed)
	is.Equal(now.Came[2], duty.Result{Profile: d.Recipients[2], State: duty.Reported, At: early})
	off := now.Due.Sub(was.Due)
	is.True(off > -time.Second && off < time.Minute) // by as long as keeping it took

	judgeNow(t, k, d, duty.Results{List: now.Came})
	is.True(next.keepOneAnew(t.Context(), d) != nil) // another hub has judged it
	subject := k.subjectOf("acme", d.At, 0)
	last, err := k.stream.Leader(t.Context(), stream.Get{Last: subject})
	is.NoErr(err)
	record, err := k.decode(subject, last.Data)
	is.NoErr(err)
	is.True(record.over)
}

// A message that was kept less than a minute after the milestone before is none.
func TestMilestones(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	var m milestones
	begun := time.Now()
	for second := range 150 {
		m.pass(uint64(second+1), begun.Add(time.Duration(second)*time.Second))
	}
	is.Equal(m, milestones{milestone{61, begun.Add(time.Minute)}, milestone{121, begun.Add(2 * time.Minute)}})
}

// Who judges next reads a duty that is about to be judged, which is not kept anew.
func TestWhatIsDueIsReadByWhoJudgesNext(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	d := dutyOf(1, time.Hour, "a")
	is.NoErr(k.Open(t.Context(), d))
	read := judgedBy(t, k)
	d.Kept = read.at
	acknowledgeAll(t, k, 1, "b")
	is.NoErr(read.catchUp(t.Context()))
	read.judge = duty.NewJudge(k.duty)
	read.judge.Open(d, time.Now(), nil)
	read.pass()
	begin, err := read.prepare(t.Context(), 1, 0)
	is.NoErr(err)
	is.Equal(begin, d.Kept)
}
