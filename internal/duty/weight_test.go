package duty

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

// What is counted is what is kept, and a recipient of an event for many takes little.
func TestRecipientsWeighLittle(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	const recipients = 100_000
	for _, c := range []struct {
		each  int  // recipients of an event
		named bool // by the event, so that nobody else has their names
		most  int64
	}{
		{1, false, 900},
		{10, false, 220},
		{1_000, false, 50},
		{10_000, false, 50},
		{1_000, true, 75},
		{10_000, true, 75},
	} {
		t.Run(fmt.Sprint(c.each, " recipients, named: ", c.named), func(t *testing.T) {
			is := is.New(t)
			pools := allowance.New(plan.Of(1 << 30))
			keeper := NewMemory(Config{Keep: time.Hour, Box: outbox.NewMemory(outbox.MemoryConfig{}), Pools: pools, Logger: slog.New(slog.DiscardHandler)})
			people := make([]event.Profile, recipients)
			for i := range people {
				people[i] = user(fmt.Sprintf("somebody-%07d", i))
			}
			before := testkit.LiveHeap()
			for first := 0; first < recipients; first += c.each {
				e := &event.Event{ID: fmt.Sprint("e", first), TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Deadline: time.Hour}
				list := make([]event.Profile, c.each)
				copy(list, people[first:])
				if c.named {
					for i := range list {
						list[i].ID += "." // a string of its own
					}
					e.Target = event.ToProfiles(append([]event.Profile(nil), list...)...)
				}
				is.NoErr(keeper.Open(context.Background(), New(e, history.Cursor{Epoch: epoch, Seq: uint64(first + 1)}, list)))
			}
			kept := testkit.LiveHeap() - before
			counted := pools.State.Total()
			t.Logf("%d bytes a recipient, counted as %d", kept/recipients, counted/recipients)
			is.True(kept <= c.most*recipients)
			testkit.Agrees(t, "open", kept, counted)
			runtime.KeepAlive(keeper)
			runtime.KeepAlive(people)
		})
	}
}

// Who asks about some of an event's recipients is told of them, and how many there are of each state;
// what is made for it is as large as the answer, however many the others are.
func TestReceiptsOfManyTakeLittle(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	is := is.New(t)
	const recipients, page, most = 100_000, 100, 64 << 10
	keeper := NewMemory(Config{Keep: time.Hour, Box: outbox.NewMemory(outbox.MemoryConfig{}), Pools: &allowance.Pools{}, Logger: slog.New(slog.DiscardHandler)})
	people := make([]event.Profile, recipients)
	for i := range people {
		people[i] = user(fmt.Sprintf("%06d", i))
	}
	at := history.Cursor{Epoch: epoch, Seq: 1}
	e := &event.Event{ID: "e", TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Deadline: time.Hour}
	is.NoErr(keeper.Open(context.Background(), New(e, at, people)))
	keeper.Acknowledge(ack("000001", 0, 1))
	keeper.Acknowledge(ack("099999", 0, 1))
	ask := func(q Query) (came Results) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		came, _ = keeper.Results(context.Background(), "acme", at, q)
		runtime.ReadMemStats(&after)
		is.True(after.TotalAlloc-before.TotalAlloc < most)
		is.Equal(came.Counts, map[State]int{Acknowledged: 2, Owed: recipients - 2})
		return came
	}
	one, nobody := user("099999"), user("stranger")
	came := ask(Query{Limit: 1, Only: &one})
	is.Equal(len(came.List), 1)
	is.Equal(came.List[0].Profile, one)
	is.Equal(came.List[0].State, Acknowledged)
	is.Equal(len(ask(Query{Limit: 1, Only: &nobody}).List), 0)
	came = ask(Query{Limit: page, After: user("0000005")}) // is no recipient
	is.Equal(len(came.List), page)
	is.Equal(came.List[0].Profile, user("000001"))
	is.True(came.More)
	came = ask(Query{Limit: page, After: user("099989")})
	is.Equal(len(came.List), 10)
	is.True(!came.More)
}
