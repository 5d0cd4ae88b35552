package main

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/history"
	"realtimehub/internal/presence"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// inCluster is inBubble for a hub of several, with what others say told by the test.
func inCluster(t *testing.T, test func(w presenceWorld, x *cluster.Cluster, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler)},
			PresenceConfig{IdleTimeout: 5 * time.Minute, Tick: time.Second, Grace: 5 * time.Second, Audience: settings.AudienceTenant}, &clustertest.Peers{}, Reporting{})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go hub.presence.Run(ctx)
		defer hub.streams.Engine().Close(ctx)
		test(presenceWorld{hub, t}, hub.cluster, is.New(t))
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
		is.Equal(w.status(alice), presence.Online) // within the grace
		again := w.connect(alice)
		w.wait(10 * time.Second)
		w.streams.Kick(again, delivery.CloseKicked)
		w.wait(4 * time.Second)
		is.Equal(w.status(alice), presence.Online)
		w.wait(2 * time.Second)
		is.Equal(w.status(alice), presence.Offline) // and not later for what was before
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
		is.Equal(w.status(alice), presence.Online)
		w.wait(1100 * time.Millisecond)
		is.Equal(w.status(alice), presence.Offline)
	})
}

// What is told again of somebody, as by a snapshot, is no new activity.
func TestAnActivityToldAgain(t *testing.T) {
	inCluster(t, func(w presenceWorld, x *cluster.Cluster, is *is.I) {
		w.connect(bob)
		there := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: alice, ConnectedAt: time.Now(), ActiveAt: time.Now()}}
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		is.Equal(w.status(alice), presence.Online)
		w.wait(4 * time.Minute)
		x.Changed("acme", []cluster.SessionChange{there}, false, time.Time{})
		is.Equal(w.status(alice), presence.Online)
		w.wait(2 * time.Minute)
		is.Equal(w.status(alice), presence.Away)
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
		is.Equal(w.status(alice), presence.Online)
	})
}
