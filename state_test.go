package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
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
)

// weighs fails where what is kept takes more memory than is counted, by a fifth.
func weighs(t *testing.T, before, counted int64) {
	t.Helper()
	heap := liveHeap() - before
	t.Logf("heap %d, counted %d: %.2f", heap, counted, float64(heap)/float64(counted))
	if heap > counted*6/5 {
		t.Errorf("%d bytes are in use, and %d counted", heap, counted)
	}
}

// text is a name of its own, as one is that came with a request.
func text(random *rand.Rand, most int) string {
	return strings.Repeat("x", random.IntN(most)) + fmt.Sprintf("%x", random.Uint64())
}

func TestRoomsAreCounted(t *testing.T) {
	if !byItself(t) {
		return
	}
	for name, shape := range map[string]struct{ rooms, people, bonds, name int }{
		"one large room":          {1, 40_000, 40_000, 24},
		"many rooms of two":       {20_000, 40_000, 40_000, 24},
		"one person in many":      {40_000, 1, 40_000, 24},
		"everybody everywhere":    {200, 200, 40_000, 24},
		"long names":              {2_000, 2_000, 10_000, 230},
		"just after a table grew": {1, 14_400, 14_400, 24},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			random := rand.New(rand.NewPCG(1, 2))
			before := liveHeap()
			rooms := make([]event.Room, shape.rooms)
			for i := range rooms {
				rooms[i] = event.Room{Kind: event.KindConversation, ID: text(random, shape.name)}
			}
			people := make([]event.Profile, shape.people)
			for i := range people {
				people[i], _ = event.ParseProfile("user:" + text(random, shape.name))
			}
			names := liveHeap() - before
			var r room.Memberships[*delivery.Connection]
			for i := range shape.bonds {
				room := rooms[i%len(rooms)]
				if shape.rooms > 1 && shape.people > 1 {
					room = rooms[i/max(1, shape.bonds/shape.rooms)%len(rooms)]
				}
				r.Add(room, people[i%len(people)], 1)
			}
			is.True(r.Count() > shape.bonds*9/10)
			list := int64(len(rooms)+len(people)) * 32 // that the test itself keeps
			weighs(t, before+list, r.Bytes())
			for _, c := range []int{2, 5, 20} { // leaving and returning
				for range shape.bonds / c {
					room, p := rooms[random.IntN(len(rooms))], people[random.IntN(len(people))]
					if !r.Remove(room, p, 2) {
						r.Add(room, p, 2)
					}
				}
				weighs(t, before+list, r.Bytes())
			}
			for i, p := range people { // most of them for good
				for _, s := range r.Stays(p) {
					if i%10 > 0 {
						r.Remove(s.Room, p, 1)
					}
				}
			}
			weighs(t, before+list+names, r.Bytes()+names)
			r.Prune(9)
			weighs(t, before+list+names, r.Bytes()+names)
			for _, p := range people {
				for _, s := range r.Stays(p) {
					r.Remove(s.Room, p, 0)
				}
			}
			is.Equal(r.Bytes(), int64(0)) // nothing is kept
			is.True(r.Empty())
			runtime.KeepAlive(rooms)
			runtime.KeepAlive(people)
		})
	}
}

func newQuietHub(quotas *allowance.Pools) (*Hub, *Presence) {
	hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Quotas: quotas, Logger: slog.New(slog.DiscardHandler)})
	return hub, NewPresence(hub, PresenceConfig{IdleTimeout: 5 * time.Minute, Tick: time.Second, TypingTTL: 6 * time.Second, Audience: settings.AudienceNone})
}

func TestConnectionsAreCounted(t *testing.T) {
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
					person, _ = event.ParseProfile("user:" + text(random, shape.name))
				}
				s := delivery.Subscription{Tenant: "acme", Profile: person, Expires: time.Now().Add(time.Hour)}
				var types []string
				for range shape.types(random) {
					types = append(types, "t"+text(random, shape.name)+[]string{"", ".*"}[random.IntN(2)])
				}
				s.Types, _ = event.ParseFilter(types)
				for range shape.watch(random) {
					p, _ := event.ParseProfile("user:" + text(random, shape.name))
					s.Watch = append(s.Watch, p)
				}
				for range shape.metadata(random) {
					if s.Metadata == nil {
						s.Metadata = map[string]string{}
					}
					s.Metadata[text(random, shape.name)] = text(random, shape.name)
				}
				_, err := hub.streams.Connect(t.Context(), s)
				is.NoErr(err)
			}
			// Nobody writes these: hub.ready is owed, which is counted as such.
			weighs(t, before, quotas.State.Total()+hub.streams.Engine().Stats().Owed)
			t.Logf("%d bytes each", (liveHeap()-before-hub.streams.Engine().Stats().Owed)/int64(shape.connections))
			is.True(quotas.Person.Total() <= quotas.State.Total()*11/10)
			for _, c := range hub.streams.Connections("acme", nil) {
				is.True(hub.streams.Kick(c, delivery.CloseKicked))
			}
			presence.tick(time.Now())
			is.Equal(quotas.Person.Total(), int64(0))
			is.Equal(hub.Stats().Tenants, 0)
			weighs(t, before, quotas.State.Total()) // who has left
			presence.tick(time.Now().Add(seenTTL))
			is.Equal(quotas.State.Total(), int64(0))
			is.Equal(quotas.Seen.Total(), int64(0))
			is.NoErr(hub.streams.Engine().Close(context.Background()))
		})
	}
}
