package duties

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/allowance"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

// people implements duty.People: everybody is connected, and nothing is known of them.
type people struct{}

func (people) Absent(string, []event.Profile) []event.Profile { return nil }

func (people) Explain(_ context.Context, _ *duty.Duty, of []event.Profile) []duty.Person {
	list := make([]duty.Person, len(of))
	for i, p := range of {
		list[i].Profile = p
	}
	return list
}

// hub is a keeper that runs, as one of several.
type hub struct {
	*Keeper
	stop func()
}

func openHub(t *testing.T, b *natstest.Broker, name string, box outbox.Box, others ...*hub) *hub {
	t.Helper()
	return openHubAt(t, b.Connect(t, 0), name, box, others...)
}

// openHubAt is openHub with its connection to the broker.
func openHubAt(t *testing.T, nc *nats.Conn, name string, box outbox.Box, others ...*hub) *hub {
	t.Helper()
	k, err := Open(t.Context(), nc, Config{
		Prefix: "test", Replicas: 1, Node: name, Key: func() *history.Key { return key }, Logger: slog.New(slog.DiscardHandler),
		Settle: func(ctx context.Context) error {
			for _, other := range others {
				if err := other.Keeper.Flush(ctx); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{Keeper: k}
	pools := allowance.New(plan.Of(1 << 30))
	kept := k.Judge(duty.Config{Box: box, People: people{}, Pools: pools, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { kept.Run(ctx) })
	h.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		k.Close()
	})
	t.Cleanup(h.stop)
	return h
}

func dutyOf(place uint64, lasts time.Duration, recipients ...string) *duty.Duty {
	e := &event.Event{ID: fmt.Sprint("e", place), TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Deadline: lasts, Target: event.ToConversation("c")}
	var list []event.Profile
	for _, id := range recipients {
		list = append(list, event.Profile{Type: "user", ID: id})
	}
	return duty.New(e, history.Cursor{Epoch: epoch, Seq: place}, list)
}

func ackOf(id string, upTo uint64) duty.Acknowledgement {
	return duty.Acknowledgement{Tenant: "acme", Profile: event.Profile{Type: "user", ID: id}, Of: epoch.Tag, UpTo: upTo, Until: time.Now().Add(time.Minute)}
}

// states are what came of an event, as a hub tells.
func (h *hub) states(t *testing.T, place uint64) string {
	t.Helper()
	came, err := h.Keeper.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: place}, duty.Query{Limit: 10})
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, r := range came.List {
		text += fmt.Sprint(r.Profile.ID, " ", r.State, " ", r.At.IsZero(), "; ")
	}
	return text
}

// What one hub opened and another was told is judged by one of them, whichever; and by the
// other, once that one has gone.
func TestOneHubJudges(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	box := outbox.NewMemory(outbox.MemoryConfig{})
	one := openHub(t, b, "one", box)
	two := openHub(t, b, "two", box, one)
	reported := func() (n int) {
		page, err := box.Read(t.Context(), "acme", outbox.Query{Limit: 100})
		is.NoErr(err)
		return len(page.Items)
	}

	openDuty(t, one.Keeper, dutyOf(1, time.Hour, "a", "b"))
	openDuty(t, one.Keeper, dutyOf(1, time.Hour, "a", "b")) // again, since the answer was lost
	two.Keeper.Acknowledge(ackOf("a", 1))
	for _, h := range []*hub{one, two} {
		testkit.Eventually(t, func() bool { return h.states(t, 1) == "a acknowledged false; b owed true; " })
	}

	one.Keeper.Acknowledge(ackOf("b", 2)) // before the deadline, however long it takes to open it
	openDuty(t, two.Keeper, dutyOf(2, time.Second, "a", "b"))
	testkit.Eventually(t, func() bool { return reported() == 1 })
	for _, h := range []*hub{one, two} {
		testkit.Eventually(t, func() bool { return h.states(t, 2) == "a reported false; b acknowledged false; " })
	}

	judging, other := one, two
	if one.judge.Load() == nil {
		judging, other = two, one
	}
	judging.Keeper.Acknowledge(ackOf("a", 3))
	openDuty(t, judging.Keeper, dutyOf(3, time.Second, "a", "b"))
	judging.stop() // what it was told is kept as it ends
	testkit.Eventually(t, func() bool { return reported() == 2 })
	testkit.Eventually(t, func() bool { return other.states(t, 3) == "a acknowledged false; b reported false; " })
	is.Equal(other.states(t, 1), "a acknowledged false; b acknowledged false; ") // b had come as far as 2
}

// An event that the judge has yet to read is owed: it is not one without recipients.
func TestWhatTheJudgeHasYetToRead(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := openHub(t, natstest.Start(t, 1), "one", outbox.NewMemory(outbox.MemoryConfig{}))
	testkit.Eventually(t, func() bool { return h.judge.Load() != nil })
	h.judge.Store(duty.NewJudge(h.duty)) // that has read nothing
	openDuty(t, h.Keeper, dutyOf(1, time.Hour, "a", "b"))
	is.Equal(h.states(t, 1), "a owed true; b owed true; ")
}

// A duty of so many recipients that it is kept in parts is one, for who asks.
func TestPartsAreOne(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	h := openHub(t, b, "one", outbox.NewMemory(outbox.MemoryConfig{}))
	var all []string
	for i := range 2*mostOfPart + 1 {
		all = append(all, fmt.Sprintf("p%05d", i))
	}
	openDuty(t, h.Keeper, dutyOf(1, time.Hour, all...))
	h.Keeper.Acknowledge(ackOf(all[len(all)-1], 1))
	at := history.Cursor{Epoch: epoch, Seq: 1}
	testkit.Eventually(t, func() bool {
		came, err := h.Keeper.Results(t.Context(), "acme", at, duty.Query{Limit: 10})
		return err == nil && came.Counts[duty.Acknowledged] == 1 && came.Counts[duty.Owed] == 2*mostOfPart
	})
	seen := 0
	for q := (duty.Query{Limit: 999}); ; {
		came, err := h.Keeper.Results(t.Context(), "acme", at, q)
		is.NoErr(err)
		seen += len(came.List)
		if !came.More {
			break
		}
		q.After = came.List[len(came.List)-1].Profile
	}
	is.Equal(seen, len(all))
}

// A client comes back to a hub from a connection that another one holds still, as who polls by turns
// does each time: it has acknowledged what that one was sent, once that is told.
func TestComesBackBeforeTheEnd(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1)
	box := outbox.NewMemory(outbox.MemoryConfig{})
	one, two := openHub(t, b, "one", box), openHub(t, b, "two", box)
	openDuty(t, one.Keeper, dutyOf(1, time.Hour, "a"))
	testkit.Eventually(t, two.inUse)
	before := ackOf("a", 1)
	before.Connection[0] = 1
	two.Resumed(before, nil)
	one.Ended(before)
	testkit.Eventually(t, func() bool { return one.states(t, 1) == "a acknowledged false; " })
}

// slow is a way to a broker on which what is written takes a while.
type slow struct{ net.Conn }

func (c slow) Write(p []byte) (int, error) {
	time.Sleep(100 * time.Millisecond)
	return c.Conn.Write(p)
}

// Dial implements nats.CustomDialer.
func (slow) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return slow{conn}, err
}

// A hub that is far from the broker hears what others say from the moment on at which it may be used.
func TestWhatIsSaidAtOnceIsHeard(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1)
	box := outbox.NewMemory(outbox.MemoryConfig{})
	one := openHub(t, b, "one", box)
	sent := ackOf("a", 1)
	two := openHubAt(t, b.Connect(t, 0, nats.SetCustomDialer(slow{})), "two", box)
	one.Ended(sent)
	testkit.Eventually(t, func() bool { return len(two.returns.Of(sent, nil)) == 1 })
}

// What another hub says of a connection that has ended is kept as long as it says, whatever its
// clock says: its client may come back here.
func TestAnEndAtAHubWithAnotherClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		k := &Keeper{returns: duty.NewReturns(allowance.New(plan.Of(1 << 30)))}
		hear := func(id string) {
			w := wordOf(ackOf(id, 1))
			w.Until -= time.Hour.Milliseconds()
			w.Left = time.Hour.Milliseconds()
			data, err := json.Marshal(w)
			is.NoErr(err)
			k.hearEnded(&nats.Msg{Data: data})
		}
		hear("a")
		time.Sleep(10 * time.Minute)
		hear("b") // what has grown old is forgotten
		is.Equal(len(k.returns.Of(ackOf("a", 1), nil)), 1)
	})
}
