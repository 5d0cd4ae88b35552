package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// inCluster is inBubble for a hub of several, with what others say told by the test.
func inCluster(t *testing.T, test func(w presenceWorld, x *cluster.Cluster, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler)})
		p := NewPresence(hub, PresenceConfig{IdleTimeout: 5 * time.Minute, Tick: time.Second, Grace: 5 * time.Second, Audience: settings.AudienceTenant})
		x := NewCluster(hub, p, &castPeers{}, 2*time.Second)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go p.Run(ctx)
		defer hub.streams.Engine().Close(ctx)
		test(presenceWorld{hub, p, t}, x, is.New(t))
	})
}

// A page is loaded anew, and meanwhile another hub that had a connection of the same
// person is given up: that it was heard before the page was closed is no reason to tell
// the person offline.
func TestAPageReloadAroundADeadHubsEnd(t *testing.T) {
	inCluster(t, func(w presenceWorld, x *cluster.Cluster, is *is.I) {
		seer := w.connect(bob, alice)
		c := w.connect(alice)
		there := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: alice, ConnectedAt: time.Now(), ActiveAt: time.Now()}}
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		w.wait(1500 * time.Millisecond)
		died := time.Now()
		w.wait(8 * time.Second)
		w.streams.Kick(c, delivery.CloseKicked)
		w.wait(2 * time.Second)
		there.Gone = true
		x.Changed("acme", []cluster.SessionChange{there}, false, died)
		w.wait(2 * time.Second)
		is.Equal(w.status(alice), Online) // within the grace
		again := w.connect(alice)
		w.wait(10 * time.Second)
		w.streams.Kick(again, delivery.CloseKicked)
		w.wait(4 * time.Second)
		is.Equal(w.status(alice), Online)
		w.wait(2 * time.Second)
		is.Equal(w.status(alice), Offline) // and not later for what was before
		is.Equal(w.read(seer), "presence.online alice offline>online, presence.offline alice online>offline")
	})
}

// Who was sent away by a hub that drains and is back on another needs no time to be back.
func TestBackAndGoneAgain(t *testing.T) {
	inCluster(t, func(w presenceWorld, x *cluster.Cluster, is *is.I) {
		w.connect(bob, alice)
		there := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: alice, ConnectedAt: time.Now(), ActiveAt: time.Now()}}
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		c := w.connect(alice)
		there.Drained = true
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		there.Gone = true
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		w.streams.Kick(c, delivery.CloseKicked)
		w.wait(4900 * time.Millisecond)
		is.Equal(w.status(alice), Online)
		w.wait(1100 * time.Millisecond)
		is.Equal(w.status(alice), Offline)
	})
}

// What is told again of somebody, as by a snapshot, is no new activity.
func TestAnActivityToldAgain(t *testing.T) {
	inCluster(t, func(w presenceWorld, x *cluster.Cluster, is *is.I) {
		w.connect(bob)
		there := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: alice, ConnectedAt: time.Now(), ActiveAt: time.Now()}}
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		is.Equal(w.status(alice), Online)
		w.wait(4 * time.Minute)
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		is.Equal(w.status(alice), Online)
		w.wait(2 * time.Minute)
		is.Equal(w.status(alice), Away)
	})
}

// What is told late of an earlier activity does not undo a later one.
func TestAnEarlierActivityToldLater(t *testing.T) {
	inCluster(t, func(w presenceWorld, x *cluster.Cluster, is *is.I) {
		w.connect(bob)
		there := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: alice, ConnectedAt: time.Now(), ActiveAt: time.Now()}}
		before := there
		w.wait(4 * time.Minute)
		there.ActiveAt = time.Now()
		x.Changed("acme", []cluster.SessionChange{there, before}, false, time.Time{})
		w.wait(2 * time.Minute)
		is.Equal(w.status(alice), Online)
	})
}

// stuckSharing does not hear what other hubs know of one tenant.
type stuckSharing struct {
	delivery.Sharing
	stuck chan struct{}
}

func (s stuckSharing) Share(ctx context.Context, tenant string) error {
	if tenant == "stuck" {
		<-s.stuck
	}
	return nil
}
func (stuckSharing) Unshare(string) {}

// Nobody waits for what a tenant waits for but who has to do with that tenant, and who
// gives up is let go.
func TestATenantThatWaitsKeepsNobodyElse(t *testing.T) {
	is := is.New(t)
	x := delivery.NewTenants(history.NewMemory(testLimits), nil, allowance.New(plan.Of(1<<30)))
	sharing := stuckSharing{stuck: make(chan struct{})}
	x.Sharing = sharing
	open := func(ctx context.Context, name string) error {
		tenant, err := x.OpenLocked(ctx, name)
		if err == nil {
			tenant.Mu.Unlock()
		}
		return err
	}
	entered := make(chan error)
	go func() { entered <- open(t.Context(), "stuck") }()
	eventually(t, func() bool { return slices.Contains(x.Names(), "stuck") })
	others := make(chan struct{})
	go func() {
		defer close(others)
		var all sync.WaitGroup
		for n := range 2000 {
			all.Go(func() {
				if err := open(t.Context(), fmt.Sprint("tenant-", n)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}()
	select {
	case <-others:
	case <-time.After(time.Minute):
		t.Error("tenants wait for another")
		close(sharing.stuck)
		<-others
		<-entered
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is.True(open(ctx, "stuck") != nil) // who left does not wait
	close(sharing.stuck)
	is.NoErr(<-entered)
	is.NoErr(open(t.Context(), "stuck"))
}

// heldPeers count what is told of while it may change.
type heldPeers struct {
	castPeers
	x     *cluster.Cluster
	told  int
	loose int
}

func (p *heldPeers) Tell(string, cluster.SessionChange) {
	p.told++
	if p.x.Mu.TryLock() {
		p.x.Mu.Unlock()
		p.loose++
	}
}

// What others are told last of a connection is what is held: nothing changes between that
// it does and that it is told.
func TestWhatIsToldIsWhatIsHeld(t *testing.T) {
	is := is.New(t)
	hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler)})
	defer hub.streams.Engine().Close(context.Background())
	p := &heldPeers{}
	p.x = NewCluster(hub, NewPresence(hub, PresenceConfig{Audience: settings.AudienceNone}), p, 0)
	c, err := hub.streams.Connect(t.Context(), delivery.Subscription{Tenant: "acme", Profile: alice})
	is.NoErr(err)
	found, err := p.x.Touch(t.Context(), c)
	is.NoErr(err)
	is.True(found)
	hub.streams.Kick(c, delivery.CloseKicked)
	is.Equal(p.told, 3)
	is.Equal(p.loose, 0)
}

// What one hub asks and another answers arrives as it was: what is nil, what is empty and
// what is everything differ.
func TestCallsArriveAsTheyWere(t *testing.T) {
	is := is.New(t)
	none, some := []string{}, []string{"a.b", "c.*"}
	nobody, somebody := []event.Profile{}, []event.Profile{alice, {Type: "device", ID: "<a>:b"}}
	count := 0
	for _, c := range []cluster.Call{
		{}, {Op: cluster.CallAdjust, Types: &none}, {Op: cluster.CallAdjust, Types: &some}, {Op: cluster.CallAdjust, Watch: &nobody}, {Op: cluster.CallAdjust, Watch: &somebody},
		{Op: cluster.CallAdjust, Unwatch: true}, {Op: cluster.CallList, Tenant: "acme", Profile: &alice, After: "x", Limit: 7},
		{Op: cluster.CallProlong, ID: uuid.New(), Expires: time.Now().Round(0).UTC()}, {Op: cluster.CallProlong, ID: uuid.New()},
		{Op: cluster.CallKick, Reason: delivery.CloseKicked}, {Op: cluster.CallRooms, Place: 1 << 60}, {Op: cluster.CallRefresh, Room: event.Room{Kind: event.KindGroup, ID: "g"}},
	} {
		is.Equal(overTheWire(t, c), c)
	}
	for _, a := range []cluster.Answer{{}, {Found: true}, {Full: true, Person: true}, {Count: &count}, {More: true, Connections: []cluster.Described{{Tenant: "acme", Profile: alice, ConnectedAt: time.Now().Round(0).UTC(), Metadata: map[string]string{"": ""}}}}} {
		is.Equal(overTheWire(t, a), a)
	}
	for _, patterns := range [][]string{nil, {}, {"*"}, {"a.b"}, {"a.*", "b"}} {
		f, _ := event.ParseFilter(patterns)
		again, _ := event.ParseFilter(overTheWire(t, f.Patterns()))
		is.Equal(again, f)
	}
}

func overTheWire[T any](t *testing.T, v T) (back T) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &back)
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}
