package delivery

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// rosterOf is an answer with so many members, from one on.
func rosterOf(asked uint64, from, n int) *room.Roster {
	r := &room.Roster{Asked: asked}
	for i := range n {
		r.Members = append(r.Members, user(fmt.Sprintf("%06d", from+i)))
	}
	return r
}

// Of a long answer a piece at a time is brought in, and others have the tenant in between. Who
// then brings in another waits until all of it is, and the two are not mixed.
func TestALongRosterLetsOthersIn(t *testing.T) {
	is := is.New(t)
	acme, err := newRig(t).Tenants.openLocked(t.Context(), "acme")
	is.NoErr(err)
	acme.mu.Unlock()
	const many = 10 * memberPiece
	adopt := func(roster *room.Roster) {
		acme.adopt(inRoom, roster, time.Now())
		members := slices.SortedFunc(acme.rooms.Members(inRoom), event.CompareProfiles)
		is.True(slices.Equal(members, roster.Members))
	}
	asked := uint64(0)
	testkit.Eventually(t, func() (between bool) {
		asked += 3
		before, after, third := rosterOf(asked, 0, many), rosterOf(asked+1, many/2, many), rosterOf(asked+2, many/4, many)
		acme.mu.Lock()
		adopt(before)
		acme.mu.Unlock()
		over := make(chan struct{})
		go func() {
			defer close(over)
			acme.mu.Lock()
			defer acme.mu.Unlock()
			acme.adopt(inRoom, after, time.Now())
		}()
		for ; !between; runtime.Gosched() {
			select {
			case <-over:
				return false
			default:
			}
			acme.mu.Lock() // it is handed over where it is waited for
			if between = acme.rooms.Has(inRoom, after.Members[many/2]) && !acme.rooms.Has(inRoom, after.Members[many-1]); between {
				adopt(third)
			}
			acme.mu.Unlock()
		}
		<-over
		return true
	})
	is.Equal(acme.readers, 0)
}

// So it is with a long list of members that a hub keeps itself. Who changes the room meanwhile waits.
func TestALongListOfMembersLetsOthersIn(t *testing.T) {
	is := is.New(t)
	r := newRig(t)
	const many = 10 * memberPiece
	before, after := rosterOf(0, 0, many).Members, rosterOf(0, many/2, many).Members
	is.NoErr(r.Members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "other"}, user("me"))) // the tenant stays
	testkit.Eventually(t, func() (between bool) {
		is.NoErr(r.Members.SetMembers(t.Context(), "acme", inRoom, before))
		over := make(chan struct{})
		go func() {
			defer close(over)
			r.Members.SetMembers(t.Context(), "acme", inRoom, after)
		}()
		for ; !between; runtime.Gosched() {
			select {
			case <-over:
				return false
			default:
			}
			acme := r.Tenants.find("acme")
			between = acme.rooms.Has(inRoom, after[many/2]) && !acme.rooms.Has(inRoom, after[many-1])
			acme.mu.Unlock()
		}
		is.NoErr(r.Members.AddMember(t.Context(), "acme", inRoom, user("zoe")))
		acme := r.Tenants.find("acme")
		members := slices.SortedFunc(acme.rooms.Members(inRoom), event.CompareProfiles)
		acme.mu.Unlock()
		is.True(slices.Equal(members, append(slices.Clone(after), user("zoe"))))
		<-over
		return true
	})
}

// What all hubs keep comes in by pieces as well. If the history begins anew meanwhile, the rest
// belong from its beginning.
func TestALongChangeOfAllHubsLetsOthersIn(t *testing.T) {
	is := is.New(t)
	r := newRig(t)
	old, anew := history.Epoch{Tag: 1}, history.Epoch{Tag: 2}
	var changed []room.Membership
	for _, p := range rosterOf(0, 0, 10*memberPiece).Members {
		changed = append(changed, room.Membership{Profile: p, Member: true, Stays: []history.Stay{{Room: inRoom, From: 7, Until: math.MaxUint64}}})
	}
	acme, err := r.Tenants.openLocked(t.Context(), "acme")
	is.NoErr(err)
	acme.mu.Unlock()
	testkit.Eventually(t, func() (between bool) {
		over := make(chan struct{})
		go func() {
			defer close(over)
			r.Members.belong("acme", old, inRoom, changed)
		}()
		for ; !between; runtime.Gosched() {
			select {
			case <-over:
				r.Members.clear("acme")
				return false
			default:
			}
			acme.mu.Lock()
			if n := acme.rooms.Len(inRoom); n > 0 && n < len(changed) {
				acme.rooms.Restart(anew)
				between = true
			}
			acme.mu.Unlock()
		}
		<-over
		return true
	})
	acme.mu.Lock()
	defer acme.mu.Unlock()
	for _, b := range changed {
		now := acme.rooms.Belonging(inRoom, b.Profile)
		is.True(now.Member && now.Stays[0].From == 0)
	}
	is.Equal(acme.charged, acme.keptLocked())
}

// turning is a Resolver whose room has two lists of members in turn.
type turning struct {
	lists [2]*room.Roster
	asked atomic.Uint64
}

func (r *turning) Resolve(context.Context, string, event.Room) (*room.Roster, error) {
	n := r.asked.Add(1)
	return &room.Roster{Asked: n, Members: r.lists[n%2].Members}, nil
}

// While the members of a room change, many at a time, each event reaches those who were its members
// before and after, once, and nobody who never was one.
func TestRostersMeetPublishes(t *testing.T) {
	is := is.New(t)
	const many = 3 * memberPiece
	of := &turning{lists: [2]*room.Roster{rosterOf(0, 0, many), rosterOf(0, memberPiece, many)}}
	r := newRig(t, func(cfg *Config) { cfg.Resolver, cfg.StreamBuffer = of, 0 })
	var always []*Connection
	for _, who := range []int{memberPiece, 2 * memberPiece, many - 1} {
		always = append(always, r.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(fmt.Sprintf("%06d", who))}))
	}
	never := r.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("never")})
	var publishing sync.WaitGroup
	const events = 20
	for n := range 3 {
		publishing.Go(func() {
			for i := range events {
				r.publish("acme", event.ToGroup(inRoom.ID), fmt.Sprintf(`"event %d of %d"`, i, n), i%2 == 0)
			}
		})
	}
	publishing.Wait()
	acme := r.Tenants.find("acme")
	in := event.Room{Kind: event.KindGroup, ID: inRoom.ID}
	members := slices.SortedFunc(acme.rooms.Members(in), event.CompareProfiles)
	is.True(slices.Equal(members, acme.resolved[in].roster.Members)) // two answers were not mixed
	is.Equal(acme.resolved[in].roster.Asked, of.asked.Load())
	acme.mu.Unlock()
	for _, c := range append(always, never) {
		out := r.read(c)
		for n := range 3 {
			for i := range events {
				want := 1
				if c == never {
					want = 0
				}
				is.Equal(strings.Count(out, fmt.Sprintf(`"event %d of %d"`, i, n)), want)
			}
		}
	}
}

// A service's answer may be forgotten while the history still has an event of its room, where others
// came between that answer and the event. Who resumes from before that event has it all the same.
func TestAnEventOutlivesWhatIsKnownOfItsRoom(t *testing.T) {
	is := is.New(t)
	service := &roomtest.Service{Members: `"user:me"`}
	r := newRig(t, keeping(2), func(cfg *Config) {
		cfg.Resolver = room.NewService(room.ServiceConfig{URL: "http://members.example", Transport: service})
	})
	e := &event.Event{ID: "late", TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Payload: []byte(`"late"`), Target: event.ToConversation(inRoom.ID)}
	_, err := r.Members.ResolveRooms(t.Context(), false, e)
	is.NoErr(err)
	r.publish("acme", event.ToTenant(), "1", false)
	from := r.publish("acme", event.ToTenant(), "2", false)
	is.NoErr(r.log.Append(t.Context(), []*history.Entry{{Event: e, Envelope: e.Seal()}}))
	r.sweep(time.Now().Add(2 * room.ResolvedTTL))
	acme := r.Tenants.find("acme")
	is.Equal(len(acme.resolved), 0)
	acme.mu.Unlock()
	var out testkit.Buffer
	r.serveTo(t, r.connect(t, subscribed("me", from)), &out)
	testkit.Eventually(t, func() bool { return strings.Contains(out.String(), `"late"`) })
}
