package delivery

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// prolonger prolongs connections when the first ends, as clients may whose calls come while
// many end at once.
type prolonger func(*Connection)

func (prolonger) Connected(*Connection)        {}
func (p prolonger) Again(*Connection)          {}
func (p prolonger) Disconnected(c *Connection) { p(c) }

// Connections whose time is over at the same moment end one after the other: one that
// is prolonged meanwhile lives on, and is not told of an end that does not come.
func TestProlongedWhileOthersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newRig(t)
		later := time.Now().Add(time.Hour)
		var mu sync.Mutex
		var all []*Connection
		var ended atomic.Int32
		h.Streams.Observe(prolonger(func(*Connection) {
			mu.Lock()
			defer mu.Unlock()
			if ended.Add(1) == 1 {
				for _, c := range all {
					h.Streams.Prolong(c, later)
				}
			}
		}))
		for _, id := range []string{"a", "b", "c"} {
			c := h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(id), Expires: time.Now().Add(time.Minute)})
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		is.Equal(len(h.Streams.Connections("acme", nil)), 2) // all but the first
		is.Equal(ended.Load(), int32(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		is.Equal(len(h.Streams.Connections("acme", nil)), 0) // they end when their new time is over
	})
}

// The same for the warning.
func TestProlongedWhileOthersAreWarned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newRig(t)
		var mu sync.Mutex
		var all []*Connection
		warn := h.Streams.expiry.warn
		h.Streams.expiry.warn = func(l *lifetime) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range all {
				if c != l.conn {
					h.Streams.Prolong(c, time.Now().Add(time.Hour))
				}
			}
			warn(l)
		}
		for _, id := range []string{"a", "b", "c"} {
			c := h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(id), Expires: time.Now().Add(time.Minute)})
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
		}
		time.Sleep(35 * time.Second)
		synctest.Wait()
		warned := 0
		for _, c := range all {
			warned += strings.Count(h.read(c), "hub.expiring")
		}
		is.Equal(warned, 1)
	})
}

// A client that asks again and again is one connection, until it has not asked for a while.
func TestAConnectionLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newRig(t)
		var gone atomic.Int32
		h.Streams.Observe(prolonger(func(*Connection) { gone.Add(1) }))
		sub := Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("a"), Linger: 10 * time.Second}
		open := func() (*Connection, *engine.Stream) {
			c, stream, err := h.Streams.Open(t.Context(), sub)
			is.NoErr(err)
			return c, stream
		}
		there := func() int {
			synctest.Wait()
			return len(h.Streams.Connections("acme", nil))
		}
		ctx, leave := context.WithCancel(t.Context())
		serve := func(stream *engine.Stream) {
			go h.Streams.Engine().Hand(ctx, stream, func([]byte) error { return nil })
			synctest.Wait()
		}

		c, stream := open()
		serve(stream)
		h.Streams.Rest(c, stream)
		is.Equal(there(), 1) // its stream has ended
		time.Sleep(9 * time.Second)
		is.Equal(there(), 1)

		again, next := open()
		is.True(again == c && next != stream)
		serve(next)
		h.Streams.Rest(c, stream) // which is over, and ends nothing
		time.Sleep(time.Hour)
		is.Equal(there(), 1) // as long as it is open
		leave()
		time.Sleep(9 * time.Second)
		is.Equal(there(), 1) // whose client left may ask again
		time.Sleep(2 * time.Second)
		is.Equal(there(), 0)
		is.Equal(gone.Load(), int32(1))
		is.Equal(h.Streams.Stats().Closes[CloseClient], int64(1))
	})
}

// What is said while a connection has no stream was not sent to it, and is had once it asks.
func TestALingeringConnectionIsBehind(t *testing.T) {
	is := is.New(t)
	h := newRig(t)
	sub := Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("a"), Linger: time.Minute}
	c, stream, err := h.Streams.Open(t.Context(), sub)
	is.NoErr(err)
	sub.Cursor = h.tell("b", false)
	h.Streams.Rest(c, stream)
	h.tell("a", false)
	why, n := h.Streams.Explain("acme", []event.Profile{user("a")}, Sent{Type: "a.b", Place: 2})
	is.Equal(why[0], WhyBehind)
	is.Equal(n[0], 1)
	again, _, err := h.Streams.Open(t.Context(), sub)
	is.NoErr(err)
	is.True(again == c)
	why, _ = h.Streams.Explain("acme", []event.Profile{user("a")}, Sent{Type: "a.b", Place: 2})
	is.Equal(why[0], WhySentUnacknowledged)
}
