package broker

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/testkit"
)

// toldRooms are what a sharedRooms tells of one tenant's rooms.
type toldRooms struct {
	mu    sync.Mutex
	rooms room.Memberships[*delivery.Connection] // guarded by mu
}

func (t *toldRooms) change(_ string, _ history.Epoch, in event.Room, changed []room.Membership) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range changed {
		t.rooms.Set(in, m)
	}
}

// What was read for one who has let go of a tenant since is told nobody: somebody may have
// begun anew, and know more.
func TestAnOldReadingTellsNothing(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := natstest.StartProxy(t, b.URL(0))
	prefix := natstest.Prefix()
	near, far := join(t, b.URL(0), prefix).rooms, join(t, proxy.URL(), prefix).rooms
	var told toldRooms
	far.Follow(told.change, func(string) {})
	near.Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
	ctx, r := t.Context(), event.Room{Kind: event.KindGroup, ID: "g"}
	is.NoErr(near.Attach(ctx, "acme"))
	is.NoErr(far.Attach(ctx, "acme"))
	last := func() (place uint64) {
		testkit.Eventually(t, func() bool {
			var err error
			place, err = near.table.Last(ctx, "acme")
			return err == nil
		})
		return place
	}
	change := func(member bool) {
		now, err := near.Now(ctx, "acme", r)
		is.NoErr(err)
		m := room.Membership{Profile: alice, Member: member, Stays: []history.Stay{{Room: r, From: 0, Until: 1 << 62}}}
		near.askAll = func(context.Context, cluster.Call) ([]cluster.Answer, []string) { return nil, nil }
		is.NoErr(near.Change(ctx, "acme", r, now, []room.Membership{m}, !member))
	}
	change(true)
	// The rows have come; that they are all, is not heard yet.
	gate, held := make(chan struct{}), make(chan struct{})
	var reply atomic.Value
	var once sync.Once
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		switch {
		case m.ReadsRows() && reply.CompareAndSwap(nil, m.Reply):
		case m.FromServer && m.Subject == reply.Load() && m.Header.Get("Status") == "204":
			once.Do(func() {
				v.After = gate
				close(held)
			})
		}
		return v
	})
	old := make(chan bool)
	go func() { old <- far.reached(cluster.Call{Tenant: "acme", Place: last()}) }()
	<-held
	far.Detach("acme")
	change(false)
	is.NoErr(far.Attach(ctx, "acme"))
	is.True(!told.rooms.Has(r, alice))
	close(gate)
	is.Equal(<-old, false)
	told.mu.Lock()
	defer told.mu.Unlock()
	is.True(!told.rooms.Has(r, alice)) // as the newer rows say
}

// One hub is to change a room, and waits for the broker's answer: another changes another room
// of the tenant meanwhile.
func TestAChangeWaitsForNoOther(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := natstest.StartProxy(t, b.URL(0))
	prefix := natstest.Prefix()
	slow, other := join(t, proxy.URL(), prefix).rooms, join(t, b.URL(0), prefix).rooms
	for _, rooms := range []*sharedRooms{slow, other} {
		rooms.Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
		is.NoErr(rooms.Attach(t.Context(), "acme"))
	}
	// meanwhile has the other hub change a room, and says what came of it.
	meanwhile := func() error {
		gate, asked := make(chan struct{}), make(chan struct{})
		defer close(gate)
		var once sync.Once
		proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
			if m.Subject == "$JS.API.STREAM.MSG.GET."+prefix+"_journal" && strings.Contains(string(m.Data), prefix+".ev.") {
				v.After = gate
				once.Do(func() { close(asked) })
			}
			return v
		})
		go slow.Now(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "x"})
		<-asked
		y := event.Room{Kind: event.KindGroup, ID: "y"}
		now, err := other.Now(t.Context(), "acme", y)
		if err == nil {
			m := room.Membership{Profile: alice, Member: true, Stays: []history.Stay{{Room: y, From: 0, Until: 1 << 62}}}
			err = other.Change(t.Context(), "acme", y, now, []room.Membership{m}, false)
		}
		return err
	}
	err := meanwhile()
	for tries := 1; err != nil && tries < 10; tries++ { // a hub on a busy machine has a second to confirm a change
		err = meanwhile()
	}
	is.NoErr(err)
}
