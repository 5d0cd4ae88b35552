package duties

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// Acknowledgements are forgotten once no deadline waits for them. Where one does, they are once
// there are many: what has come of it is kept with it, and whoever judges next knows it.
func TestAcknowledgementsAreForgotten(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	openDuty(t, k, dutyOf(1, time.Hour, "a", "b", "c"))
	acknowledgeAll(t, k, 1, "a")
	for i := range 30 {
		acknowledgeAll(t, k, 1, fmt.Sprint("d", i))
	}
	all := acknowledgements(t, k)
	is.True(all >= 31)
	first := judgedBy(t, k)
	first.shorten(t, 0)
	is.Equal(acknowledgements(t, k), all) // a duty may be opened that they are of

	first.pass()
	first.shorten(t, compactFrom)
	is.Equal(acknowledgements(t, k), all) // they are few
	confirmed(t, func() error { return first.compact(t.Context(), 0) })
	is.Equal(acknowledgements(t, k), all) // the disk may not have yet what is kept in their place
	confirmed(t, func() error { return first.compact(t.Context(), 0) })
	is.Equal(acknowledgements(t, k), 0)

	acknowledgeAll(t, k, 1, "b")
	all = acknowledgements(t, k)
	is.True(all > 0)
	next := judgedBy(t, k)
	is.Equal(next.counts(1), map[duty.State]int{duty.Acknowledged: 2, duty.Owed: 1})
	next.pass()
	next.shorten(t, 0)
	is.Equal(acknowledgements(t, k), all) // it is less than the duty
	next.judge = duty.NewJudge(k.duty)
	next.shorten(t, compactFrom)
	is.Equal(acknowledgements(t, k), 0) // and no duty waits for it
}

// What came of events is kept for a day, and not read by who judges next.
func TestWhatIsOverIsNotReadAgain(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	for place := range uint64(20) {
		d := dutyOf(place+1, time.Hour, "a")
		openDuty(t, k, d)
		judgeNow(t, k, d, duty.Results{List: []duty.Result{{Profile: d.Recipients[0], State: duty.Acknowledged, At: time.Now()}}})
	}
	openDuty(t, k, dutyOf(21, time.Hour, "a"))
	first := judgedBy(t, k)
	all := first.bytes
	first.pass()
	first.shorten(t, 0)
	next := judgedBy(t, k)
	is.True(next.bytes < all/10)
	_, open := next.judge.Standing(dutyOf(21, time.Hour, "a"))
	is.True(open)
	came, err := k.Results(t.Context(), "acme", dutyOf(1, time.Hour, "a").At, duty.Query{Limit: 1})
	is.NoErr(err)
	is.Equal(came.List[0].State, duty.Acknowledged)
}

// judgeOf has read so many duties, and what b acknowledged of the first since then, with which it is
// worth it to make what is kept shorter.
func judgeOf(t *testing.T, k *Keeper, duties uint64) *reading {
	t.Helper()
	for place := range duties {
		d := dutyOf(place+1, time.Hour, "a", "b", "c")
		d.Absent = d.Recipients[2:]
		openDuty(t, k, d)
		confirmed(t, func() error { return k.early(t.Context(), d, time.Now()) })
	}
	acknowledgeAll(t, k, duties, "a")
	read := judgedBy(t, k)
	read.pass()
	acknowledgeAll(t, k, 1, "b")
	confirmed(t, func() error { return read.catchUp(t.Context()) })
	read.mu.Lock()
	read.bytes = 1 << 30
	read.mu.Unlock()
	return read
}

// A judge ends at any step of making what is kept shorter: who judges next knows all the same.
func TestAJudgeThatEndsAsItMakesItShorter(t *testing.T) {
	t.Parallel()
	const duties = 3
	const steps = duties + 2 // each is kept anew, then the beginning, then what was before is removed
	for done := range int32(steps + 1) {
		t.Run(fmt.Sprint("after ", done), func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			proxy := natstest.Start(t, 1).Proxies(t)[0]
			var k *Keeper
			testkit.Eventually(t, func() bool { // a judge whom the broker answers late has ended before
				proxy.Rule(nil)
				k = readerAt(t, proxy.URL())
				first := judgeOf(t, k, duties)
				var begun atomic.Int32
				proxy.Rule(func(m *natstest.Message) natstest.Verdict {
					isStep := !m.FromServer && (strings.HasPrefix(m.Subject, k.prefix) || strings.HasPrefix(m.Subject, "$JS.API.STREAM.PURGE."))
					return natstest.Verdict{Drop: isStep && begun.Add(1) > done}
				})
				err := first.compact(t.Context(), 0)
				if err == nil {
					err = first.compact(t.Context(), 0)
				}
				if err != nil && begun.Load() <= done {
					return false
				}
				is.Equal(err == nil, done == steps)
				return true
			})
			proxy.Rule(nil)
			confirmed(t, func() error {
				begin, err := k.begin(t.Context())
				is.True(err != nil || begin > 1 == (done > duties))
				return err
			})
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
	openDuty(t, k, d)
	confirmed(t, func() error {
		return k.write(t.Context(), stream.NewMessage(k.prefix+beginSubject, []byte(stream.FormatSeq(1000))))
	})
	is.True(judgedBy(t, k).knows(d))
}

// A duty that this version does not understand is read by who judges next, which may: what was
// acknowledged since it was kept stays, too.
func TestWhatIsNotUnderstoodStays(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	acknowledgeAll(t, k, 1, "a")
	ofA := acknowledgements(t, k)
	d := dutyOf(1, time.Hour, "a", "b")
	confirmed(t, func() error {
		return k.write(t.Context(), stream.NewMessage(k.subjectOf("acme", d.At, 0), []byte("?")))
	})
	acknowledgeAll(t, k, 1, "b")
	ofB := acknowledgements(t, k) - ofA
	is.True(ofA > 0 && ofB > 0)
	first := judgedBy(t, k)
	first.pass()
	first.shorten(t, 0)
	is.Equal(acknowledgements(t, k), ofB)
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
	openDuty(t, k, d)
	first := judgedBy(t, k)
	_, _, _, ready := first.judge.KeptUpTo(first.at)
	is.True(!ready) // c is yet to be reported
	early := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	confirmed(t, func() error { return k.early(t.Context(), d, early) })
	acknowledgeAll(t, k, 1, "a")
	confirmed(t, func() error { return first.catchUp(t.Context()) })
	was, _ := first.judge.Standing(d)
	confirmed(t, func() error { return first.keepOneAnew(t.Context(), d) })

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
	openDuty(t, k, d)
	read := judgedBy(t, k)
	d.Kept = read.at
	acknowledgeAll(t, k, 1, "b")
	confirmed(t, func() error { return read.catchUp(t.Context()) })
	read.judge = duty.NewJudge(k.duty)
	read.judge.Open(d, time.Now(), nil)
	read.pass()
	begin, err := read.prepare(t.Context(), 1, 0)
	is.NoErr(err)
	is.Equal(begin, d.Kept)
}
