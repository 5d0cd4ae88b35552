package delivery

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
)

// slowRooms are rooms of a cluster that take a minute until they are known.
type slowRooms struct{ room.Shared }

func (slowRooms) Follow(func(string, history.Epoch, event.Room, []room.Membership), func(string)) {}
func (slowRooms) Attach(ctx context.Context, _ string) error {
	select {
	case <-time.After(time.Minute):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (slowRooms) Detach(string)              {}
func (slowRooms) Sure(context.Context) error { return nil }

// An event waits for its tenant's rooms for a moment and no longer, before it is stored; how many
// members its own has is not known then.
func TestAnEventDoesNotWaitForItsRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRig(t, func(cfg *Config) { cfg.Rooms = slowRooms{} })
		events := []*event.Event{{TenantID: "acme", Target: event.ToConversation("a")}}
		begun := time.Now()
		r.Tenants.EnsureRooms(t.Context(), events)
		remotes := r.Tenants.CountRemote(t.Context(), events)
		is.Equal(time.Since(begun), roomsTime)
		is.Equal(remotes()[0].Members, -1)
		time.Sleep(time.Minute)
		is.Equal(r.Tenants.CountRemote(t.Context(), events)()[0].Members, 0)
	})
}

// Whether somebody of a large room is present is asked for those who are connected here first, and then for
// everybody; others have the tenant meanwhile.
func TestAnyMemberOfALargeRoom(t *testing.T) {
	is := is.New(t)
	r := newRig(t)
	hall := event.Room{Kind: event.KindGroup, ID: "hall"}
	people := make([]event.Profile, 3*memberPiece)
	for i := range people {
		people[i] = user(fmt.Sprint(i))
	}
	is.NoErr(r.Members.SetMembers(t.Context(), "acme", hall, people))
	here := people[2*memberPiece+7]
	r.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: here})
	acme := r.Tenants.byName["acme"]
	asked := map[event.Profile]bool{}
	any := func(present event.Profile) (any bool) {
		clear(asked)
		return r.Members.AnyMember("acme", hall, func(p event.Profile) bool {
			is.True(acme.mu.TryLock())
			acme.mu.Unlock()
			asked[p] = true
			return p == present
		})
	}
	is.True(any(here))
	is.Equal(len(asked), 1)
	is.True(any(people[memberPiece]))
	is.True(!any(user("nobody")))
	is.Equal(len(asked), len(people))
	is.True(!r.Members.AnyMember("other", hall, func(event.Profile) bool { return true }))

	asking := append([]event.Profile{user("nobody")}, people[:2*sharePiece]...)
	for i, share := range r.Members.Share("acme", here, asking) {
		is.Equal(share, i > 0)
	}
	is.Equal(r.Members.Share("other", here, asking), make([]bool, len(asking)))
}
