package delivery

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/history"
	"realtimehub/internal/sse"
)

// A publish, what a hub does now and then, and a log's word that nothing has come put
// no byte on a stream that they are not for, however many there are.
func TestNoFrameToWhomAPublishIsNotFor(t *testing.T) {
	var first int64
	for _, streams := range []int{1, 100, 3000} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			is := is.New(t)
			h := newRig(t, keeping(40))
			for i := range streams { // nobody serves them: what they are sent, they owe
				h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(fmt.Sprint("quiet-", i))})
			}
			h.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("me")})
			before := h.Streams.Engine().Owed()
			for range 200 {
				h.tell("me", false)
			}
			grown := h.Streams.Engine().Owed() - before
			is.True(grown > 200*100) // the one who is a target has its events
			if first == 0 {
				first = grown
			}
			is.Equal(grown, first)
			before = h.Streams.Engine().Owed()
			h.sweep(time.Now().Add(testLimits.TTL - time.Second))
			head := h.Tenants.find("acme").head
			h.Tenants.byName["acme"].mu.Unlock()
			h.Dispatcher.Quiet("acme", history.Cursor{Epoch: head.Epoch, Seq: head.Seq + 1000})
			h.Dispatcher.Flush("acme")
			is.Equal(h.Streams.Engine().Owed(), before)
		})
	}
}

// The heartbeat, which is written anyway, carries the place where it has moved, once;
// a stream that is never silent is told it as well, and one that catches up is not.
func TestTheHeartbeatTellsThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newRig(t)
		quiet, busy := h.serve(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("quiet")}), h.serve(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("busy")})
		time.Sleep(time.Minute)
		is.True(strings.HasPrefix(quiet.written(), ":\n\n:\n\n:\n\n"))
		is.Equal(strings.Count(busy.written(), "id:"), 0) // nothing has moved

		head := h.tell("you", false)
		is.Equal(quiet.written(), "")
		time.Sleep(20 * time.Second)
		is.Equal(strings.ReplaceAll(quiet.written(), ":\n\n", ""), "id: "+head+"\n\n")
		time.Sleep(time.Minute)
		is.Equal(strings.ReplaceAll(quiet.written(), ":\n\n", ""), "")
		busy.written()

		head = h.tell("you", false)
		for range 10 { // it is never silent
			h.tell("busy", true)
			time.Sleep(5 * time.Second)
		}
		got := busy.written()
		is.Equal(strings.Count(got, "event:"), 10)
		is.Equal(strings.Count(got, "id: "), 1)
		is.True(strings.Contains(got, "\nid: "+head+"\n\n"))
		is.Equal(quiet.conn.place, busy.conn.place)

		acme := h.Tenants.find("acme")
		quiet.conn.behind = &behind{}
		acme.mu.Unlock()
		h.tell("you", false)
		quiet.written()
		time.Sleep(20 * time.Second)
		is.Equal(strings.ReplaceAll(quiet.written(), ":\n\n", ""), "") // what it misses may be before that
	})
}

// The last words of a stream that has all that there is tell the place: the clients that
// a drain sends away come back to where they were, and not to a quarter of a history ago.
func TestLastWordsTellThePlace(t *testing.T) {
	for _, c := range []struct {
		name  string
		end   func(*rig, *Connection)
		tells bool
	}{
		{"drain", func(h *rig, _ *Connection) { h.Streams.Drain(context.Background(), 0) }, true},
		{"kicked", func(h *rig, c *Connection) { h.Streams.Kick(c, CloseKicked) }, true},
		{"replaced", func(h *rig, c *Connection) {
			h.Streams.open.most.Profile = 1
			h.Streams.Connect(context.Background(), Subscription{Encoding: sse.Encoding{}, Tenant: c.Tenant, Profile: c.Profile})
		}, true},
		{"behind", func(h *rig, c *Connection) {
			acme := h.Tenants.find("acme")
			c.behind = &behind{}
			acme.mu.Unlock()
			h.Streams.Drain(context.Background(), 0)
		}, false},
		{"notYetIn", func(h *rig, c *Connection) {
			acme := h.Tenants.find("acme")
			c.joined = false
			acme.mu.Unlock()
			h.Streams.Drain(context.Background(), 0)
		}, false},
		{"lost", func(h *rig, c *Connection) {
			acme := h.Tenants.find("acme")
			after := history.Cursor{Epoch: acme.head.Epoch, Seq: acme.head.Seq + 9}
			acme.mu.Unlock()
			h.Dispatcher.Lost("acme", after)
			h.tell("me", false) // it may not have what follows the gap
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				h := newRig(t)
				me := h.serve(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("me")})
				head := h.tell("you", false)
				is.Equal(me.written(), "")
				c.end(h, me.conn)
				got := me.written()
				is.Equal(strings.Count(got, "event:"), 1)
				is.True(strings.Contains(got, "event: hub.closing\n"))
				is.Equal(strings.Contains(got, "id: "+head+"\n"), c.tells)
				is.Equal(strings.Count(got, "id: ") == 1, c.tells)
			})
		})
	}
}
