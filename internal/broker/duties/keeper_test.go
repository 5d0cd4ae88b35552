package duties

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/allowance"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

var (
	key   = history.NewKey(nil)
	epoch = key.Epoch(make([]byte, 8))
)

// nobody knows nothing of people.
type nobody struct{}

func (nobody) Explain(_ context.Context, _ *duty.Duty, of []event.Profile) []duty.Person {
	list := make([]duty.Person, len(of))
	for i, p := range of {
		list[i].Profile = p
	}
	return list
}

// start starts a keeper alone, with an outbox in memory, until stop.
func start(t *testing.T, b *natstest.Broker, prefix string, box outbox.Box) (k *Keeper, stop func()) {
	t.Helper()
	return startOf(t, b, prefix, box, nobody{})
}

func startOf(t *testing.T, b *natstest.Broker, prefix string, box outbox.Box, people duty.People) (k *Keeper, stop func()) {
	t.Helper()
	nc := b.Connect(t, 0)
	k, err := Open(t.Context(), nc, Config{Prefix: prefix, Replicas: 1, Alone: true, Node: fmt.Sprint("n", time.Now().UnixNano()), Key: func() *history.Key { return key }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	k.Judge(duty.Config{Box: box, People: people, Pools: allowance.New(plan.Of(1 << 30)), Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	return k, func() {
		cancel()
		<-done
		k.Close()
		nc.Close()
	}
}

func user(id string) event.Profile { return event.Profile{Type: "user", ID: id} }

func open(t *testing.T, k *Keeper, place uint64, in time.Duration, absent []event.Profile, recipients ...event.Profile) {
	t.Helper()
	e := &event.Event{ID: fmt.Sprint("e", place), TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Deadline: in, Target: event.ToProfile(recipients[0])}
	d := duty.New(e, history.Cursor{Epoch: epoch, Seq: place}, recipients)
	d.Absent = absent
	openDuty(t, k, d)
}

func items(t *testing.T, box outbox.Box, n int) (text string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		text = ""
		for _, item := range page.Items {
			text += string(item.Data)
		}
		return len(page.Items) >= n
	})
	return text
}

// Acknowledgements with filters as long as they may be do not keep others from being judged.
func TestLongFilters(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	box := outbox.NewMemory(outbox.MemoryConfig{})
	k, stop := start(t, natstest.Start(t, 1), natstest.Prefix(), box)
	defer stop()
	patterns := make([]string, event.MaxAskedProfiles)
	for i := range patterns {
		patterns[i] = fmt.Sprintf("a%03d%s", i, strings.Repeat("x", 120))
	}
	long, _ := event.ParseFilter(patterns)
	for i := range 100 {
		k.Acknowledge(duty.Acknowledgement{Tenant: "acme", Profile: user("me"), Of: epoch.Tag, UpTo: uint64(i), Types: long, Until: time.Now().Add(time.Hour)})
	}
	confirmed(t, func() error { return k.Flush(t.Context()) })
	k.Acknowledge(duty.Acknowledgement{Tenant: "acme", Profile: user("a"), Of: epoch.Tag, UpTo: 1, Until: time.Now().Add(time.Hour)})
	open(t, k, 1, time.Second, nil, user("a"), user("b"))
	got := items(t, box, 1)
	is.True(strings.Contains(got, `"id":"b"`) && !strings.Contains(got, `"id":"a"`)) // b alone is reported
}

// Who was to be reported at once is known to whoever judges next: nobody else is taken for
// reported.
func TestTheAbsentStayTheSame(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b, prefix, box := natstest.Start(t, 1), natstest.Prefix(), outbox.NewMemory(outbox.MemoryConfig{})
	k, stop := start(t, b, prefix, box)
	open(t, k, 1, 2*time.Second, []event.Profile{user("a")}, user("a"), user("b"))
	items(t, box, 1)
	page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 1}) // the other may be there already
	is.NoErr(err)
	first := string(page.Items[0].Data)
	is.True(strings.Contains(first, `"id":"a"`) && !strings.Contains(first, `"id":"b"`))
	at := func(k *Keeper) (when time.Time) {
		testkit.Eventually(t, func() bool {
			came, err := k.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, duty.Query{Limit: 2})
			if err == nil && len(came.List) == 2 {
				when = came.List[0].At
			}
			return !when.IsZero()
		})
		return when
	}
	reported := at(k)
	stop()
	k, stop = start(t, b, prefix, box)
	defer stop()
	is.Equal(at(k).UnixMilli(), reported.UnixMilli()) // it is known when
	is.True(strings.Contains(strings.TrimPrefix(items(t, box, 2), first), `"id":"b"`))
	is.Equal(at(k).UnixMilli(), reported.UnixMilli())
}

// A stream that was removed is made anew, and what is kept there is judged.
func TestJudgingGoesOnWhereTheStreamIsMadeAnew(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b, prefix, box := natstest.Start(t, 1), natstest.Prefix(), outbox.NewMemory(outbox.MemoryConfig{})
	k, stop := start(t, b, prefix, box)
	defer stop()
	for place := range uint64(20) {
		open(t, k, place+1, time.Second, nil, user("a"))
	}
	items(t, box, 20)
	js, err := jetstream.New(k.nc)
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), k.stream.Name))
	open(t, k, 30, time.Second, nil, user("b"))
	is.True(strings.Contains(items(t, box, 21), `"id":"b"`))
}

// A deadline is judged once what was left of it has passed, also where the judge's clock is ahead
// of the one that set it or behind, and by whichever judge.
func TestADeadlineOfAnothersClock(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		off   time.Duration // by which the clock that set it is off
		again bool          // another judges
	}{
		"behind":                {off: -time.Hour},
		"ahead":                 {off: time.Hour},
		"behind, another hub's": {off: -time.Hour, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b, prefix, box := natstest.Start(t, 1), natstest.Prefix(), outbox.NewMemory(outbox.MemoryConfig{})
			k, stop := start(t, b, prefix, box)
			begun := time.Now()
			d := dutyOf(1, 3*time.Second, "a")
			var r record
			is.NoErr(json.Unmarshal(encode(d, leftOf(d.Deadline), nil), &r))
			r.Deadline += tc.off.Milliseconds()
			data, err := json.Marshal(r)
			is.NoErr(err)
			confirmed(t, func() error { return k.write(t.Context(), stream.NewMessage(k.subjectOf("acme", d.At, 0), data)) })
			if tc.again {
				stop()
				_, stop = start(t, b, prefix, box)
			}
			defer stop()
			items(t, box, 1)
			page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 1})
			is.NoErr(err)
			is.True(page.Items[0].At.Sub(begun) >= 3*time.Second)
		})
	}
}

// When something was kept is said by the clock of who reads it: of what was there before by how
// old it is by the broker's, and never as longer ago than it can be.
func TestWhenSomethingWasKept(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	now := time.Now()
	for _, ahead := range []time.Duration{-time.Hour, 0, time.Hour} {
		from := beginning{last: 10, ahead: ahead}
		old := &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 10}, Timestamp: now.Add(ahead - time.Minute)}
		is.Equal(from.keptAt(now, old), now.Add(-time.Minute))
		old.Timestamp = now.Add(ahead + time.Minute) // by the clock of another leader
		is.Equal(from.keptAt(now, old), now)
		fresh := &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: 11}, Timestamp: now.Add(-time.Minute)}
		is.Equal(from.keptAt(now, fresh), now)
	}
}

// together knows nobody of the first duty before all are open, nor of the others before it has
// been asked of as many at a time.
type together struct {
	nobody
	asked     atomic.Int32
	open, all chan struct{}
}

// Explain implements duty.People.
func (w *together) Explain(ctx context.Context, d *duty.Duty, of []event.Profile) []duty.Person {
	until := w.all
	switch w.asked.Add(1) {
	case 1:
		until = w.open
	case 1 + judgedAtOnce:
		close(w.all)
	}
	select {
	case <-until:
	case <-ctx.Done():
	}
	return w.nobody.Explain(ctx, d, of)
}

// Deadlines that have come do not wait for each other: a hub that is slow to answer, or a broker,
// would have those of many events wait for hours.
func TestDeadlinesWaitForNoOther(t *testing.T) {
	t.Parallel()
	box := outbox.NewMemory(outbox.MemoryConfig{})
	people := &together{open: make(chan struct{}), all: make(chan struct{})}
	k, stop := startOf(t, natstest.Start(t, 1), "test", box, people)
	defer stop()
	open(t, k, 1, time.Second, nil, user("a"))
	testkit.Eventually(t, func() bool { return people.asked.Load() == 1 })
	for place := range uint64(judgedAtOnce) {
		open(t, k, place+2, time.Second, nil, user("a"))
	}
	due := time.Now().Add(2 * time.Second) // all are
	testkit.Eventually(t, func() bool { return k.Stats().Open == 1+judgedAtOnce && time.Now().After(due) })
	close(people.open)
	testkit.Eventually(t, func() bool {
		page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 1000})
		return err == nil && len(page.Items) == 1+judgedAtOnce
	})
}

// Acknowledgements that cannot be kept are counted: those past as many as may wait, and those that
// wait as the hub ends while the broker is away.
func TestLostAcknowledgementsAreCounted(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	k, stop := start(t, b, natstest.Prefix(), outbox.NewMemory(outbox.MemoryConfig{}))
	b.Stop(0)
	for range allWords + 2 {
		k.Acknowledge(ackOf("a", 1))
	}
	is.Equal(k.Stats().Lost, int64(2))
	stop()
	is.Equal(k.Stats().Lost, int64(2+allWords))
}

// What another version kept is not understood, which is counted, and the rest is.
func TestWhatIsNotUnderstoodIsCounted(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	box := outbox.NewMemory(outbox.MemoryConfig{})
	k, stop := start(t, natstest.Start(t, 1), natstest.Prefix(), box)
	defer stop()
	is.NoErr(k.nc.Publish(k.cfg.Prefix+".dutyended", []byte("?")))
	testkit.Eventually(t, func() bool { return k.Stats().Unread == 1 })
	confirmed(t, func() error {
		return k.write(t.Context(), stream.NewMessage(k.subjectOf("acme", dutyOf(1, time.Second, "a").At, 0), []byte("?")))
	})
	open(t, k, 2, time.Second, nil, user("a"))
	items(t, box, 1)
	testkit.Eventually(t, func() bool { return k.Stats().Unread >= 2 }) // what is read anew counts again
}

// Who judges no more has nothing of it in memory: another does, and hubs take turns for months.
func TestWhoJudgesNoMoreKeepsNothing(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k, stop := start(t, natstest.Start(t, 1), natstest.Prefix(), outbox.NewMemory(outbox.MemoryConfig{}))
	for place := range uint64(20) {
		open(t, k, place+1, time.Hour, nil, user("a"), user("b"))
	}
	k.Acknowledge(ackOf("a", 20))
	testkit.Eventually(t, func() bool { s := k.Stats(); return s.Open == 20 && s.Owed == 20 })
	is.True(k.duty.Pools.State.Of("acme") > 0)
	stop()
	is.Equal(k.duty.Pools.State.Of("acme"), int64(0))
}
