package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// bareHub is a hub without a server, whose log keeps so many events, until the test ends.
func bareHub(t testing.TB, events int) *Hub {
	limits := testLimits
	limits.Events = events
	h := NewHub(HubConfig{
		Retry: 2 * time.Second, Heartbeat: 15 * time.Second, StreamBuffer: 1 << 20, Plain: true,
		Log: history.NewMemory(limits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler),
	})
	h.streams.Observe(nobody{})
	t.Cleanup(func() {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		h.streams.Engine().Close(over)
	})
	return h
}

// nobody observes.
type nobody struct{}

func (nobody) Connected(*delivery.Connection)    {}
func (nobody) Disconnected(*delivery.Connection) {}

func (h *Hub) mustConnect(t testing.TB, s delivery.Subscription) *delivery.Connection {
	t.Helper()
	c, err := h.streams.Connect(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustPublish publishes an event to one profile, and returns its cursor; it panics at an
// error.
func (h *Hub) mustPublish(to string, ephemeral bool) string {
	receipts, err := h.Publish(context.Background(), []*event.Event{{
		TenantID: "acme", Type: "a.b", Payload: []byte(`"` + to + `"`), Target: event.ToProfile(event.Profile{Type: "user", ID: to}), Ephemeral: ephemeral,
	}})
	if err != nil {
		panic(err)
	}
	return receipts[0].Cursor
}

// A publish, what a hub does now and then, and a log's word that nothing has come put
// no byte on a stream that they are not for, however many there are.
func TestNoFrameToWhomAPublishIsNotFor(t *testing.T) {
	var first int64
	for _, streams := range []int{1, 100, 3000} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			is := is.New(t)
			h := bareHub(t, 40)
			for i := range streams { // nobody serves them: what they are sent, they owe
				h.mustConnect(t, delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: fmt.Sprint("quiet-", i)}})
			}
			h.mustConnect(t, delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}})
			before := h.streams.Engine().Owed()
			for range 200 {
				h.mustPublish("me", false)
			}
			grown := h.streams.Engine().Owed() - before
			is.True(grown > 200*100) // the one who is a target has its events
			if first == 0 {
				first = grown
			}
			is.Equal(grown, first)
			before = h.streams.Engine().Owed()
			h.Sweep(time.Now().Add(testLimits.TTL - time.Second))
			head := h.tenants.Find("acme").Head
			h.tenants.ByName["acme"].Mu.Unlock()
			h.dispatcher.Quiet("acme", history.Cursor{Epoch: head.Epoch, Seq: head.Seq + 1000})
			h.dispatcher.Flush("acme")
			is.Equal(h.streams.Engine().Owed(), before)
		})
	}
}

// servedHere is a stream that is written to memory; written is what has come since it was
// last asked.
type servedHere struct {
	conn *delivery.Connection
	out  syncBuffer
	seen int
}

// memoryWriter answers into memory that may be read meanwhile.
type memoryWriter struct {
	http.ResponseWriter
	out *syncBuffer
}

func (w memoryWriter) Write(b []byte) (int, error) { return w.out.Write(b) }
func (w memoryWriter) WriteHeader(int)             {}
func (w memoryWriter) Flush()                      {}

func (h *Hub) serve(t testing.TB, s delivery.Subscription) *servedHere {
	t.Helper()
	x := &servedHere{conn: h.mustConnect(t, s)}
	go h.streams.Engine().Serve(memoryWriter{httptest.NewRecorder(), &x.out}, httptest.NewRequest("GET", "/v1/stream", nil).WithContext(t.Context()), x.conn.Stream)
	x.written()
	return x
}

func (x *servedHere) written() string {
	synctest.Wait()
	all := x.out.String()
	defer func() { x.seen = len(all) }()
	return all[x.seen:]
}

// The heartbeat, which is written anyway, carries the place where it has moved, once;
// a stream that is never silent is told it as well, and one that catches up is not.
func TestTheHeartbeatTellsThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := bareHub(t, 10_000)
		user := func(id string) delivery.Subscription {
			return delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: id}}
		}
		quiet, busy := h.serve(t, user("quiet")), h.serve(t, user("busy"))
		time.Sleep(time.Minute)
		is.True(strings.HasPrefix(quiet.written(), ":\n\n:\n\n:\n\n"))
		is.Equal(strings.Count(busy.written(), "id:"), 0) // nothing has moved

		head := h.mustPublish("you", false)
		is.Equal(quiet.written(), "")
		time.Sleep(20 * time.Second)
		is.Equal(strings.ReplaceAll(quiet.written(), ":\n\n", ""), "id: "+head+"\n\n")
		time.Sleep(time.Minute)
		is.Equal(strings.ReplaceAll(quiet.written(), ":\n\n", ""), "")
		busy.written()

		head = h.mustPublish("you", false)
		for range 10 { // it is never silent
			h.mustPublish("busy", true)
			time.Sleep(5 * time.Second)
		}
		got := busy.written()
		is.Equal(strings.Count(got, "event:"), 10)
		is.Equal(strings.Count(got, "id: "), 1)
		is.True(strings.Contains(got, "\nid: "+head+"\n\n"))
		is.Equal(quiet.conn.Place, busy.conn.Place)

		acme := h.tenants.Find("acme")
		quiet.conn.Behind = &delivery.Behind{}
		acme.Mu.Unlock()
		h.mustPublish("you", false)
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
		end   func(*Hub, *delivery.Connection)
		tells bool
	}{
		{"drain", func(h *Hub, _ *delivery.Connection) { h.streams.Drain(context.Background(), 0) }, true},
		{"kicked", func(h *Hub, c *delivery.Connection) { h.streams.Kick(c, delivery.CloseKicked) }, true},
		{"replaced", func(h *Hub, c *delivery.Connection) {
			h.streams.Directory.Most.Profile = 1
			h.streams.Connect(context.Background(), delivery.Subscription{Tenant: c.Tenant, Profile: c.Profile})
		}, true},
		{"behind", func(h *Hub, c *delivery.Connection) {
			acme := h.tenants.Find("acme")
			c.Behind = &delivery.Behind{}
			acme.Mu.Unlock()
			h.streams.Drain(context.Background(), 0)
		}, false},
		{"notYetIn", func(h *Hub, c *delivery.Connection) {
			acme := h.tenants.Find("acme")
			c.Joined = false
			acme.Mu.Unlock()
			h.streams.Drain(context.Background(), 0)
		}, false},
		{"lost", func(h *Hub, c *delivery.Connection) {
			acme := h.tenants.Find("acme")
			after := history.Cursor{Epoch: acme.Head.Epoch, Seq: acme.Head.Seq + 9}
			acme.Mu.Unlock()
			h.dispatcher.Lost("acme", after)
			h.mustPublish("me", false) // it may not have what follows the gap
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				h := bareHub(t, 10_000)
				me := h.serve(t, delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}})
				head := h.mustPublish("you", false)
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
