package main

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
)

// Quiet tenants beside one whose events push the broker's history out keep up with it,
// all of them, and none is told of a gap: neither on the hub where it is, nor on the next
// one, which it is sent to with the place it knows.
func TestQuietTenantsDoNotExpire(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	const each = 300
	tenants := 1500
	if testing.Short() {
		tenants = 300
	}
	h := newCluster(t, 2, theBroker(t), openDoor(t), access.RatesConfig{}, func(hub *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.Events, limits.Bytes = 0, 256<<10 // some 400 events, of all tenants together
		hub.Log, hub.Plain = history.NewMemory(limits), true
		hub.Heartbeat = time.Hour // or a slow machine's are taken for what a sweep puts on a stream
	})
	one, two := h.nodes[0], h.nodes[1]
	start := map[string]string{}
	subscription := func(i int) delivery.Subscription {
		return delivery.Subscription{Encoding: sse.Encoding{}, Tenant: fmt.Sprint("quiet-", i), Profile: event.Profile{Type: "user", ID: "me"}}
	}
	conns := make([]*delivery.Connection, tenants)
	for i := range conns { // nobody serves them
		conns[i] = one.mustConnect(t, subscription(i))
		start[conns[i].Tenant] = one.place(t, conns[i].Tenant)
	}
	busy := one.mustConnect(t, delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "busy", Profile: event.Profile{Type: "user", ID: "me"}})
	body := `"` + strings.Repeat("x", 500) + `"`
	last := ""
	for range 4 {
		before := one.streams.Engine().Owed()
		for range each {
			last = one.publish(t, "busy", "a.b", `{"kind":"profile","profiles":["you"]}`, body)["cursor"].(string)
		}
		one.sweep(t, conns, last)
		is.Equal(one.streams.Engine().Owed(), before) // it put nothing on any stream
	}
	moved := 0
	partial := func(on *testHub, i int, cursor string) bool {
		s := subscription(i)
		s.Cursor = cursor
		words := on.lastWords(on.mustConnect(t, s))
		is.True(strings.Contains(words, `"resume":"`))
		return strings.Contains(words, `"resume":"partial"`)
	}
	expired, expiredThere := 0, 0
	for i, c := range conns {
		cursor := one.place(t, c.Tenant)
		if cursor != start[c.Tenant] {
			moved++
		}
		if partial(one, i, start[c.Tenant]) { // nothing has come since, which its hub knows
			expired++
		}
		if partial(two, i, cursor) { // which its next one does not know
			expiredThere++
		}
	}
	is.Equal(moved, tenants)
	is.Equal(expired, 0)
	is.Equal(expiredThere, 0)
	eventually(t, func() bool { return partial(two, 0, start["quiet-0"]) }) // for all it knows something has gone, once it has heard that
	for _, c := range append(conns, busy) {
		one.streams.Kick(c, delivery.CloseKicked)
	}
}

// A client knows of more than the hub that it came to. When that sends it away it keeps its
// place.
func TestWhoKnowsMoreKeepsItsPlace(t *testing.T) {
	is := is.New(t)
	b := theBroker(t)
	proxy := natstest.StartProxy(t, b.URL(0))
	prefix := newPrefix()
	join := func(url string) *testHub {
		node := newNode(t, openDoor(t), access.RatesConfig{}, func(history.Limits, bool) *broker.Broker {
			return joinBrokerAt(t, url, 1, prefix, testLimits)
		})
		node.nodes = []*testHub{node}
		return node
	}
	writer, node := join(b.URL(0)).Hub.log, join(proxy.URL())
	historytest.Persist(t, writer, historytest.To("acme", `"early"`, event.ToTenant()))
	me := delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}}
	first := node.Hub.mustConnect(t, me)
	defer node.streams.Kick(first, delivery.CloseKicked)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) { // it hears of nothing more
		v.Drop = strings.HasPrefix(m.Subject, prefix+".live.") || strings.Contains(string(m.Data), "multi_last")
		return v
	})
	late := historytest.To("acme", `"late"`, event.ToTenant())
	historytest.Persist(t, writer, late)
	me.Cursor = late.Cursor.String()
	c := node.Hub.mustConnect(t, me)
	words := node.lastWords(c)
	is.True(strings.Contains(words[strings.LastIndex(words, "retry:"):], "id: "+me.Cursor+"\n"))
}

// lastWords ends a stream that nobody serves, and returns all that it was sent.
func (h *Hub) lastWords(c *delivery.Connection) string {
	h.streams.Kick(c, delivery.CloseKicked)
	rec := httptest.NewRecorder()
	h.streams.Engine().Serve(rec, httptest.NewRequest("GET", "/", nil), c.Stream)
	return rec.Body.String()
}

// place is where a tenant's streams are on a hub, as a new one is told.
func (h *Hub) place(t testing.TB, tenant string) string {
	t.Helper()
	words := h.lastWords(h.mustConnect(t, delivery.Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: event.Profile{Type: "user", ID: "looks"}}))
	_, cursor, _ := strings.Cut(words, `"cursor":"`)
	cursor, _, ok := strings.Cut(cursor, `"`)
	if !ok {
		t.Fatal(words)
	}
	return cursor
}

// sweep waits until what a hub asks the broker each second has moved connections on to
// what was published until now.
func (h *testHub) sweep(t testing.TB, conns []*delivery.Connection, cursor string) {
	t.Helper()
	last, _ := h.parse("busy", cursor)
	deadline := time.Now().Add(time.Minute)
	for _, c := range conns {
		for {
			if at, _ := h.parse(c.Tenant, h.place(t, c.Tenant)); at.Seq >= last.Seq {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the places do not move")
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}
