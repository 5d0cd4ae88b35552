package broker

import (
	"context"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/testkit"
)

// The table of who belongs where is made anew, and a hub learns that from what another
// tells it of the new one: places of the old one say nothing of what it knows. It does not
// say that it knows of a change, nor deliver what came after that, until it has read it.
func TestPlacesOfAnotherTable(t *testing.T) {
	t.Parallel()
	for name, learn := range map[string]func(*sharedRooms, cluster.Call, string) bool{
		"by an event": func(far *sharedRooms, _ cluster.Call, beside string) bool {
			return far.behind("acme", beside, 1) && far.await("acme", beside, 1) == nil
		},
		"by a call": func(far *sharedRooms, c cluster.Call, _ string) bool { return far.reached(c) },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := natstest.Start(t, 1)
			prefix := natstest.Prefix()
			near, far := join(t, b.URL(0), prefix).rooms, join(t, b.URL(0), prefix).rooms
			var told toldRooms
			far.Follow(told.change, func(string) {})
			near.Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
			ctx, r := t.Context(), event.Room{Kind: event.KindGroup, ID: "g"}
			is.NoErr(near.Attach(ctx, "acme"))
			is.NoErr(far.Attach(ctx, "acme"))
			var call cluster.Call
			near.askAll = func(_ context.Context, c cluster.Call) ([]cluster.Answer, []string) {
				call = c
				return nil, nil
			}
			add := func(p event.Profile) {
				now, err := near.Now(ctx, "acme", r)
				is.NoErr(err)
				is.NoErr(near.Change(ctx, "acme", r, now, []room.Membership{{Profile: p, Member: true, Stays: []history.Stay{{Room: r, From: 0, Until: 1 << 62}}}}, false))
			}
			add(alice)
			is.True(far.reached(call))
			js, err := jetstream.New(b.Connect(t, 0))
			is.NoErr(err)
			is.NoErr(js.DeleteStream(ctx, prefix+"_table"))
			testkit.Eventually(t, func() bool { return near.table.Look(ctx) == nil })
			add(bob)
			is.True(learn(far, call, (*near.besideOf(call.Place))[0]))
			told.mu.Lock()
			defer told.mu.Unlock()
			is.True(told.rooms.Has(r, bob))
		})
	}
}
