package cluster_test

import (
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// crowd is a room of user 0 and so on, which counts who is looked at.
type crowd struct {
	size   int
	looked *int
}

func (c crowd) Len() int { return c.size }

func (c crowd) Has(p event.Profile) bool {
	*c.looked++
	var n int
	fmt.Sscan(p.ID, &n)
	return n < c.size
}

func (c crowd) All() iter.Seq[event.Profile] {
	return func(yield func(event.Profile) bool) {
		for i := range c.size {
			if *c.looked++; !yield(user(fmt.Sprint(i))) {
				return
			}
		}
	}
}

// elsewhere has a rig know of people elsewhere, of two connections each.
func elsewhere(t testing.TB, people int) *rig {
	r := newRig(t, &clustertest.Peers{}, room.Own{})
	is.New(t).NoErr(r.Share(t.Context(), "acme"))
	for i := range people {
		for range 2 {
			come := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: user(fmt.Sprint(i))}}
			r.Changed("acme", []cluster.SessionChange{come}, false, time.Time{})
		}
	}
	return r
}

// How many of a room's people are elsewhere is found by looking at them, or at all who are
// elsewhere, whichever are fewer.
func TestCountingARoomLooksAtTheFewer(t *testing.T) {
	for _, c := range []struct{ elsewhere, members, looked, connections int }{
		{100, 5, 5, 10}, {1000, 5, 5, 10}, {5, 1000, 5, 10}, {10, 10, 10, 20}, {10, 0, 0, 0},
	} {
		t.Run(fmt.Sprint(c.members, " of ", c.elsewhere), func(t *testing.T) {
			is := is.New(t)
			looked := 0
			e := &event.Event{TenantID: "acme", Target: event.ToConversation("r")}
			n := elsewhere(t, c.elsewhere).Count(e, crowd{c.members, &looked})
			is.Equal(n, c.connections)
			is.Equal(looked, c.looked)
		})
	}
}

// A connection elsewhere is counted by the one form of its id by which it gets events.
func TestCountingAConnection(t *testing.T) {
	is := is.New(t)
	r := newRig(t, &clustertest.Peers{}, room.Own{})
	is.NoErr(r.Share(t.Context(), "acme"))
	id := uuid.New()
	r.Changed("acme", []cluster.SessionChange{{Session: cluster.Session{ID: id, Profile: user("me")}}}, false, time.Time{})
	count := func(id string) int {
		return r.Count(&event.Event{TenantID: "acme", Target: event.ToConnection(id)}, nil)
	}
	is.Equal(count(id.String()), 1)
	is.Equal(count(strings.ReplaceAll(id.String(), "-", "")), 0)
	is.Equal(count("{"+id.String()+"}"), 0)
}

// Of a large room that is done once a second; whom an event leaves out is left out of it each time.
func TestCountingALargeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		looked := 0
		r, members := elsewhere(t, 3000), crowd{2000, &looked}
		count := func(exclude ...string) (n, looks int) {
			e := &event.Event{TenantID: "acme", Target: event.ToConversation("r")}
			for _, id := range exclude {
				e.Target.ExcludeProfiles = append(e.Target.ExcludeProfiles, user(id))
			}
			before := looked
			return r.Count(e, members), looked - before
		}
		n, looks := count()
		is.Equal(n, 4000)
		is.Equal(looks, 2000)
		for range 10 {
			n, looks = count("7", "2500", "nobody") // a member, and others
			is.Equal(n, 3998)
			is.True(looks <= 3)
		}
		come := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: user("1")}}
		r.Changed("acme", []cluster.SessionChange{come}, false, time.Time{})
		time.Sleep(time.Second)
		n, looks = count()
		is.Equal(n, 4001)
		is.Equal(looks, 2000)
		toAll := &event.Event{TenantID: "acme", Target: event.ToTenant()}
		toAll.Target.ExcludeProfiles, toAll.Target.ExcludeConnections = []event.Profile{user("2")}, []uuid.UUID{come.ID, uuid.New()}
		is.Equal(r.Count(toAll, members), 6001-2-1)
	})
}

// slowCrowd is a room that takes long to look at.
type slowCrowd struct {
	crowd
	begun, end chan struct{}
}

func (c slowCrowd) All() iter.Seq[event.Profile] {
	close(c.begun)
	<-c.end
	return c.crowd.All()
}

// While a tenant's room is counted, other tenants' people come and are counted.
func TestCountingKeepsNoOtherTenant(t *testing.T) {
	is := is.New(t)
	r := elsewhere(t, 10)
	slow := slowCrowd{crowd{5, new(int)}, make(chan struct{}), make(chan struct{})}
	counted, others := make(chan int), make(chan int)
	go func() { counted <- r.Count(&event.Event{TenantID: "acme", Target: event.ToConversation("r")}, slow) }()
	<-slow.begun
	go func() {
		is.NoErr(r.Share(t.Context(), "other"))
		come := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: user("1")}}
		r.Changed("other", []cluster.SessionChange{come}, false, time.Time{})
		others <- r.Count(&event.Event{TenantID: "other", Target: event.ToTenant()}, slow)
	}()
	select {
	case n := <-others:
		is.Equal(n, 1)
		close(slow.end)
	case <-time.After(time.Minute):
		close(slow.end)
		t.Error("another tenant waits")
		<-others
	}
	is.Equal(<-counted, 10)
}

func BenchmarkCountARoom(b *testing.B) {
	for _, people := range []int{10_000, 100_000} {
		r, looked := elsewhere(b, people), 0
		b.Run(fmt.Sprint("50 of ", people), func(b *testing.B) {
			e := &event.Event{TenantID: "acme", Target: event.ToConversation("r")}
			for b.Loop() {
				r.Count(e, crowd{50, &looked})
			}
		})
	}
}
