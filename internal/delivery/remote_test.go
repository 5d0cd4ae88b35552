package delivery

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
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
