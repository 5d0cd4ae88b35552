package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// prolonger prolongs a connection when another ends, as a client may whose call comes
// while many end at once.
type prolonger struct {
	*Hub
	on func(*delivery.Connection)
}

func (p *prolonger) Connected(*delivery.Connection)      {}
func (p *prolonger) Disconnected(c *delivery.Connection) { p.on(c) }

// Connections whose time is over at the same moment end one after the other: one that
// is prolonged meanwhile lives on, and is not told of an end that does not come.
func TestProlongedWhileOthersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler)})
		defer hub.streams.Engine().Close(t.Context())
		later := time.Now().Add(time.Hour)
		var mu sync.Mutex
		var all []*delivery.Connection
		var ended atomic.Int32
		hub.streams.Observe(&prolonger{hub, func(*delivery.Connection) {
			mu.Lock()
			defer mu.Unlock()
			if ended.Add(1) == 1 {
				for _, c := range all {
					hub.streams.Prolong(c, later)
				}
			}
		}})
		for _, id := range []string{"a", "b", "c"} {
			c, err := hub.streams.Connect(t.Context(), delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: id}, Expires: time.Now().Add(time.Minute)})
			is.NoErr(err)
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		is.Equal(len(hub.streams.Connections("acme", nil)), 2) // all but the first
		is.Equal(ended.Load(), int32(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		is.Equal(len(hub.streams.Connections("acme", nil)), 0) // they end when their new time is over
	})
}

// The same for the warning.
func TestProlongedWhileOthersAreWarned(t *testing.T) {
	inBubble(t, settings.AudienceNone, func(w presenceWorld, is *is.I) {
		var mu sync.Mutex
		var all []*delivery.Connection
		warn := w.streams.Expiry.Warn
		w.streams.Expiry.Warn = func(l *delivery.Lifetime) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range all {
				if c != l.Conn {
					w.streams.Prolong(c, time.Now().Add(time.Hour))
				}
			}
			warn(l)
		}
		for _, ref := range []event.Profile{alice, bob, carol} {
			c, err := w.streams.Connect(w.t.Context(), delivery.Subscription{Tenant: "acme", Profile: ref, Expires: time.Now().Add(time.Minute)})
			is.NoErr(err)
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
		w.wait(35 * time.Second)
		warned := 0
		for _, c := range all {
			c.Stream.Close(w.streams.Closing(delivery.CloseKicked))
			rec := httptest.NewRecorder()
			w.streams.Engine().Serve(rec, httptest.NewRequest("GET", "/", nil), c.Stream)
			warned += strings.Count(rec.Body.String(), "hub.expiring")
		}
		is.Equal(warned, 1)
	})
}
