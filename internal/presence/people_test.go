package presence

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// world is people in a bubble, where time is the test's own: grace 5 s, idle 5 m.
type world struct {
	*People
	pools   *allowance.Pools
	offline []string // who was said to be
}

func inBubble(t *testing.T, test func(w *world, is *is.I)) {
	withPools(t, allowance.New(plan.Of(1<<30)), test)
}

func withPools(t *testing.T, pools *allowance.Pools, test func(w *world, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{pools: pools}
		w.People = New(Config{
			IdleTimeout: 5 * time.Minute, Grace: 5 * time.Second, Pools: pools,
			Offline: func(who event.TenantProfile) { w.offline = append(w.offline, who.Profile.ID) },
		})
		test(w, is.New(t))
	})
}

func user(id any) event.Profile { return event.Profile{Type: "user", ID: fmt.Sprint(id)} }

// comes has somebody connect.
func (w *world) comes(id any) *delivery.Connection {
	now := time.Now()
	c := delivery.NewRemote(uuid.New(), "acme", user(id), now, now, nil)
	w.Connected(c)
	return c
}

// passes lets time go by, with a tick a second, and returns what has changed meanwhile, as
// "who previous>status", and whose change was no news, in parentheses.
func (w *world) passes(d time.Duration) string {
	var words []string
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Second, time.Until(end)))
		for _, n := range w.Advance(time.Now(), true) {
			for _, c := range n.Changes {
				words = append(words, fmt.Sprintf("%s %s>%s", c.Profile.ID, c.Previous, c.Status))
			}
			for _, p := range n.Known {
				words = append(words, fmt.Sprintf("(%s)", p.ID))
			}
		}
	}
	return strings.Join(words, ", ")
}

func (w *world) status(id any) Status { return w.Of("acme", []event.Profile{user(id)})[0].Status }

// Somebody is there until the grace after the last connection is over; a page reload is no news.
func TestWhoComesAndGoes(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		is.Equal(w.status("alice"), Offline)
		c := w.comes("alice")
		is.Equal(w.status("alice"), Online)        // at once
		is.True(!w.Present("acme", user("alice"))) // nobody was told
		is.Equal(w.passes(time.Second), "alice offline>online")
		is.True(w.Present("acme", user("alice")))
		w.Disconnected(c)
		is.Equal(w.passes(4*time.Second), "") // within the grace
		is.Equal(w.status("alice"), Online)
		c = w.comes("alice")
		is.Equal(w.passes(time.Minute), "")
		w.Disconnected(c)
		is.Equal(w.passes(time.Minute), "alice online>offline")
		is.Equal(w.status("alice"), Offline)
		is.Equal(w.offline, []string{"alice"})
	})
}

// Somebody is away once all their connections are idle, and back with any activity.
func TestWhoIsIdle(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		one, two := w.comes("alice"), w.comes("alice")
		is.Equal(w.passes(4*time.Minute), "alice offline>online")
		w.Touch(two, time.Now())
		is.Equal(w.passes(4*time.Minute), "") // one of several is active
		is.Equal(w.passes(2*time.Minute), "alice online>away")
		online, away := w.Counts()
		is.Equal([]int{online, away}, []int{0, 1})
		w.Touch(one, time.Now())
		is.Equal(w.passes(6*time.Minute), "alice away>online, alice online>away")
		w.Spoke(event.TenantProfile{Tenant: "acme", Profile: user("alice")}) // on no connection of this hub's
		is.Equal(w.passes(6*time.Minute), "alice away>online, alice online>away")
	})
}

// What is over at the next tick is no news, nor is what was so before this hub heard of it.
func TestWhatIsNoNews(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		w.Left(w.comes("alice"), time.Now().Add(-time.Minute)) // its grace is over
		is.Equal(w.passes(time.Second), "(alice)")
		bob := event.TenantProfile{Tenant: "acme", Profile: user("bob")}
		w.Came(bob, time.Now(), false)
		is.Equal(len(w.Advance(time.Now(), false)), 0) // nobody asks
		w.Went(bob, time.Time{}, time.Now())
		is.Equal(w.passes(10*time.Second), "bob online>offline")
		w.Came(event.TenantProfile{Tenant: "acme", Profile: user("carol")}, time.Now(), true)
		is.Equal(w.passes(time.Second), "carol offline>online")
		w.Forget("acme")
		is.Equal(w.status("carol"), Offline)
		is.Equal(w.passes(time.Minute), "(carol)")
	})
}

// What has changed twice is told once, from what it was before to what it is now.
func TestNewsAfterNews(t *testing.T) {
	is := is.New(t)
	change := func(id string, previous, status Status) Change {
		return Change{Profile: user(id), Previous: previous, Status: status}
	}
	n := &News{Online: 3, Changes: []Change{change("once", Offline, Online), change("undone", Online, Away), change("twice", Online, Away)}}
	n = n.Then(&News{Online: 2, Away: 1, Changes: []Change{change("twice", Away, Offline), change("undone", Away, Online), change("new", Offline, Online)}})
	is.Equal(*n, News{Online: 2, Away: 1, Changes: []Change{change("once", Offline, Online), change("twice", Online, Offline), change("new", Offline, Online)}})
	n = n.Then(&News{Changes: []Change{change("once", Online, Offline), change("twice", Offline, Away), change("new", Online, Offline)}})
	is.Equal(n.Changes, []Change{change("twice", Online, Away)})
}

// Who has left is remembered for a day; then nothing is kept of them, nor of their tenant.
func TestWhoHasLeftIsForgotten(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		is.Equal(w.Of("acme", []event.Profile{user("alice")})[0].LastActiveAt, nil)
		c, at := w.comes("alice"), event.FormatTime(time.Now())
		w.passes(time.Minute)
		w.Left(c, time.Now())
		w.passes(23 * time.Hour)
		is.Equal(*w.Of("acme", []event.Profile{user("alice")})[0].LastActiveAt, at)
		is.True(w.pools.Seen.Total() > 0)
		w.passes(2 * time.Hour)
		is.Equal(w.tenants.Len(), 0)
		is.Equal(w.due.Len(), 0)
		is.Equal(w.pools.State.Total(), int64(0))
		is.Equal(w.pools.Seen.Total(), int64(0))
	})
}

// Where there is no room for more, those who left first are forgotten before their time, and
// are not due any more.
func TestWhoLeftFirstIsForgottenFirst(t *testing.T) {
	withPools(t, allowance.New(plan.Memory{State: 800 << 10}), func(w *world, is *is.I) {
		const people = 1_000
		for i := range people {
			w.Left(w.comes(i), time.Now().Add(-time.Minute)) // its grace is over
			w.Advance(time.Now(), false)
		}
		kept := w.size("acme", true)
		is.True(kept > 50 && kept < 200)
		is.Equal(w.due.Len(), kept)
		for i := range people {
			who := w.Of("acme", []event.Profile{user(i)})[0]
			is.Equal(who.LastActiveAt != nil, i >= people-kept)
		}
	})
}

// Whoever goes again and again while nobody looks at what has changed, as where a hub does not
// know who is there, is noted once.
func TestWhoLeavesAgainIsNotedOnce(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		for range 100 {
			w.Left(w.comes("a"), time.Now().Add(-time.Minute)) // of a hub that was gone for long
		}
		is.Equal(len(w.left), 1)
		is.Equal(w.passes(time.Minute), "(a)")
		is.Equal(w.status("a"), Offline)
	})
}
