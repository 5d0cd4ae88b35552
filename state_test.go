package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

func newQuietHub(quotas *allowance.Pools) (*Hub, *Presence) {
	hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Quotas: quotas, Logger: slog.New(slog.DiscardHandler)},
		PresenceConfig{IdleTimeout: 5 * time.Minute, Tick: time.Second, TypingTTL: 6 * time.Second, Audience: settings.AudienceNone}, nil, Reporting{})
	return hub, hub.presence
}

func TestConnectionsAreCounted(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	type some func(*rand.Rand) int
	none, upTo := func(*rand.Rand) int { return 0 }, func(most int) some { return func(r *rand.Rand) int { return r.IntN(most + 1) } }
	for name, shape := range map[string]struct {
		connections, perPerson int
		types, watch, metadata some
		name                   int
	}{
		"plain":         {20_000, 1, none, none, none, 24},
		"several each":  {20_000, 5, none, none, none, 24},
		"filters":       {3_000, 1, upTo(50), none, none, 64},
		"one type":      {5_000, 1, func(*rand.Rand) int { return 1 }, none, none, 10},
		"watch lists":   {2_000, 1, none, upTo(60), none, 24},
		"metadata":      {3_000, 1, none, none, upTo(16), 200},
		"a bit of each": {3_000, 2, upTo(5), upTo(20), upTo(4), 30},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			random := rand.New(rand.NewPCG(1, 2))
			quotas := allowance.New(plan.Memory{})
			hub, presence := newQuietHub(quotas)
			defer runtime.KeepAlive(presence)
			before := liveHeap()
			var person event.Profile
			for i := range shape.connections {
				if i%shape.perPerson == 0 {
					person, _ = event.ParseProfile("user:" + testkit.Text(random, shape.name))
				}
				s := delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: person, Expires: time.Now().Add(time.Hour)}
				var types []string
				for range shape.types(random) {
					types = append(types, "t"+testkit.Text(random, shape.name)+[]string{"", ".*"}[random.IntN(2)])
				}
				s.Types, _ = event.ParseFilter(types)
				for range shape.watch(random) {
					p, _ := event.ParseProfile("user:" + testkit.Text(random, shape.name))
					s.Watch = append(s.Watch, p)
				}
				for range shape.metadata(random) {
					if s.Metadata == nil {
						s.Metadata = map[string]string{}
					}
					s.Metadata[testkit.Text(random, shape.name)] = testkit.Text(random, shape.name)
				}
				_, err := hub.streams.Connect(t.Context(), s)
				is.NoErr(err)
			}
			// Nobody writes these: hub.ready is owed, which is counted as such.
			testkit.Weighs(t, before, quotas.State.Total()+hub.streams.Engine().Stats().Owed)
			t.Logf("%d bytes each", (liveHeap()-before-hub.streams.Engine().Stats().Owed)/int64(shape.connections))
			is.True(quotas.Person.Total() <= quotas.State.Total()*11/10)
			for _, c := range hub.streams.Connections("acme", nil) {
				is.True(hub.streams.Kick(c, delivery.CloseKicked))
			}
			presence.tick(time.Now())
			is.Equal(quotas.Person.Total(), int64(0))
			is.Equal(hub.Stats().Tenants, 0)
			testkit.Weighs(t, before, quotas.State.Total()) // who has left
			presence.tick(time.Now().Add(25 * time.Hour))
			is.Equal(quotas.State.Total(), int64(0))
			is.Equal(quotas.Seen.Total(), int64(0))
			is.NoErr(hub.streams.Engine().Close(context.Background()))
		})
	}
}
