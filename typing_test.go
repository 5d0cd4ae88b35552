package main

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// gatedResolver is a membership service that answers some of its calls, by their
// number, only when it is let.
type gatedResolver struct {
	mu    sync.Mutex
	calls int
	gates map[int]chan struct{}
}

// hold has the n-th call from now on wait, and returns what lets it go.
func (g *gatedResolver) hold(n int) (let func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gate := make(chan struct{})
	g.gates[g.calls+n] = gate
	return func() { close(gate) }
}

func (g *gatedResolver) Resolve(context.Context, string, event.Room) (*room.Roster, error) {
	g.mu.Lock()
	g.calls++
	gate := g.gates[g.calls]
	g.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return &room.Roster{Members: []event.Profile{alice, bob}}, nil
}

// castPeers records what other hubs are told of typing.
type castPeers struct {
	cluster.Peers
	mu   sync.Mutex
	cast []bool
}

func (*castPeers) Follow(cluster.Sink)  {}
func (*castPeers) Node() (node [4]byte) { return node }
func (*castPeers) Hears() bool          { return true }
func (*castPeers) Others() [][4]byte    { return nil }
func (*castPeers) Lost() [][4]byte      { return nil }
func (*castPeers) Complete(context.Context, string) bool {
	return true
}
func (*castPeers) Tell(string, cluster.SessionChange) {}
func (*castPeers) Hold(context.Context, string) error { return nil }
func (*castPeers) Release(string)                     {}
func (p *castPeers) Cast(_ string, t cluster.Typing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cast = append(p.cast, t.Started)
}

// typingWorld is a hub with one who sees who types, in a bubble.
type typingWorld struct {
	presenceWorld
	cluster  *cluster.Cluster
	resolver *gatedResolver
	seer     *delivery.Connection
}

func typingBubble(t *testing.T, peers cluster.Peers, test func(w typingWorld, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		resolver := &gatedResolver{gates: map[int]chan struct{}{}}
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: resolver, Logger: slog.New(slog.DiscardHandler)})
		p := NewPresence(hub, PresenceConfig{Tick: time.Second, Grace: 5 * time.Second, TypingTTL: 6 * time.Second, Audience: settings.AudienceNone})
		cluster := NewCluster(hub, p, peers, 0)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go p.Run(ctx)
		defer hub.streams.Engine().Close(ctx)
		w := typingWorld{presenceWorld{hub, p, t}, cluster, resolver, nil}
		w.seer = w.connect(bob)
		test(w, is.New(t))
	})
}

// types has alice's client call, and does not wait for the answer.
func (w typingWorld) types(started bool) {
	go w.cluster.Typing(context.Background(), "acme", alice, "talk", started)
	synctest.Wait()
}

const (
	started        = "typing.started alice"
	startedStopped = "typing.started alice, typing.stopped alice"
)

// Whatever waits for the membership service, others are told of a typist in the order
// in which it happened.
func TestTypingIsToldInOrder(t *testing.T) {
	t.Run("the start is told late", func(t *testing.T) {
		typingBubble(t, nil, func(w typingWorld, is *is.I) {
			let := w.resolver.hold(2) // by when it is told
			w.types(true)
			w.types(false)
			let()
			synctest.Wait()
			is.Equal(w.typists(), 0)
			is.Equal(w.read(w.seer), startedStopped)
		})
	})
	t.Run("the start is found a member late", func(t *testing.T) {
		typingBubble(t, nil, func(w typingWorld, is *is.I) {
			let := w.resolver.hold(1)
			w.types(true)
			w.types(false) // which is the later word
			let()
			synctest.Wait()
			is.Equal(w.typists(), 0)
			is.Equal(w.read(w.seer), "")
		})
	})
	t.Run("the tick's stop is told late", func(t *testing.T) {
		typingBubble(t, nil, func(w typingWorld, is *is.I) {
			w.types(true)
			let := w.resolver.hold(1)
			w.wait(8 * time.Second) // its time is over
			w.types(true)
			let()
			synctest.Wait()
			is.Equal(w.read(w.seer), startedStopped+", "+started)
		})
	})
	t.Run("offline, and typing again within the tick", func(t *testing.T) {
		typingBubble(t, nil, func(w typingWorld, is *is.I) {
			w.types(true)
			w.Presence.typists.Left(event.TenantProfile{Tenant: "acme", Profile: alice})
			w.types(true)
			w.wait(3 * time.Second)
			is.Equal(w.typists(), 1)
			is.Equal(w.read(w.seer), started) // others see what is so
		})
	})
	t.Run("another hub's, told late", func(t *testing.T) {
		typingBubble(t, nil, func(w typingWorld, is *is.I) {
			let := w.resolver.hold(1)
			w.cluster.Typed("acme", cluster.Typing{Profile: alice, Conversation: "talk", Started: true})
			synctest.Wait()
			w.cluster.Typed("acme", cluster.Typing{Profile: alice, Conversation: "talk", Started: false})
			synctest.Wait()
			let()
			synctest.Wait()
			is.Equal(w.typists(), 0)
			is.Equal(w.read(w.seer), startedStopped)
		})
	})
	t.Run("to other hubs", func(t *testing.T) {
		var peers castPeers
		typingBubble(t, &peers, func(w typingWorld, is *is.I) {
			let := w.resolver.hold(2)
			w.types(true)
			w.types(false)
			let()
			synctest.Wait()
			w.types(true)
			w.types(true)  // a repeat: they have a time of their own
			w.types(false) //
			w.types(false) // of whom this hub knows nothing, and another may
			is.Equal(peers.cast, []bool{true, false, true, true, false, false})
			is.Equal(w.read(w.seer), startedStopped+", "+startedStopped)
		})
	})
}
