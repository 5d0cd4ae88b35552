package main

import (
	"fmt"
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
)

// Quiet tenants beside one whose events push the broker's history out keep up with it,
// all of them, and none is told of a gap: neither on the hub where it is, nor on the next
// one, which it is sent to with the place it knows.
func TestQuietTenantsDoNotExpire(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	const tenants, each = 1500, 300
	h := newCluster(t, 2, theBroker(t), openDoor(t), access.RatesConfig{}, func(hub *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.Events, limits.Bytes = 0, 256<<10 // some 400 events, of all tenants together
		hub.Log, hub.Plain = history.NewMemory(limits), true
	})
	one, two := h.nodes[0], h.nodes[1]
	start := map[string]string{}
	subscription := func(i int) delivery.Subscription {
		return delivery.Subscription{Tenant: fmt.Sprint("quiet-", i), Profile: event.Profile{Type: "user", ID: "me"}}
	}
	conns := make([]*delivery.Connection, tenants)
	for i := range conns { // nobody serves them
		conns[i] = one.mustConnect(t, subscription(i))
		start[conns[i].Tenant] = known(one.Hub, conns[i])
	}
	busy := one.mustConnect(t, delivery.Subscription{Tenant: "busy", Profile: event.Profile{Type: "user", ID: "me"}})
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
	resume := func(on *testHub, i int, cursor string) error {
		s := subscription(i)
		s.Cursor = cursor
		_, missed, err := on.streams.Locate(t.Context(), s)
		is.NoErr(err)
		return missed
	}
	expired, expiredThere := 0, 0
	for i, c := range conns {
		cursor := known(one.Hub, c)
		if cursor != start[c.Tenant] {
			moved++
		}
		if resume(one, i, start[c.Tenant]) != nil { // nothing has come since, which its hub knows
			expired++
		}
		if resume(two, i, cursor) != nil { // which its next one does not know
			expiredThere++
		}
	}
	is.Equal(moved, tenants)
	is.Equal(expired, 0)
	is.Equal(expiredThere, 0)
	is.True(resume(two, 0, start["quiet-0"]) != nil) // for all it knows something has gone
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
	me := delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}}
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
	defer node.streams.Kick(c, delivery.CloseKicked)
	is.Equal(known(node.Hub, c), me.Cursor)
}

// known is the place that a stream's last words would tell.
func known(h *Hub, c *delivery.Connection) string {
	t := h.tenants.Find(c.Tenant)
	defer t.Mu.Unlock()
	return t.KnownLocked(c)
}

// sweep waits until what a hub asks the broker each second has moved connections on to
// what was published last.
func (h *testHub) sweep(t testing.TB, conns []*delivery.Connection, cursor string) {
	t.Helper()
	last, _ := h.parse("busy", cursor)
	there := func() bool {
		for _, c := range conns {
			if at, _ := h.parse(c.Tenant, known(h.Hub, c)); at.Seq < last.Seq {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(time.Minute); !there(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the places do not move")
		}
	}
}
