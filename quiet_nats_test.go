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
	for range 4 {
		before := one.streams.Engine().Owed()
		for range each {
			one.publish(t, "busy", "a.b", `{"kind":"profile","profiles":["you"]}`, body)
		}
		one.sweep(t, conns)
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

// known is the place that a stream's last words would tell.
func known(h *Hub, c *delivery.Connection) string {
	t := h.tenants.Find(c.Tenant)
	defer t.Mu.Unlock()
	return t.KnownLocked(c)
}

// sweep waits until what a hub asks the broker each second has moved connections on to
// what was published until now.
func (h *testHub) sweep(t testing.TB, conns []*delivery.Connection) {
	t.Helper()
	log := h.log.(*broker.SharedLog)
	span, err := log.Journal.Span(t.Context(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		for _, c := range conns {
			if at, _ := h.parse(c.Tenant, known(h.Hub, c)); at.Seq < span.Last {
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
