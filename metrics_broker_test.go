package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
)

// A resume that the broker stops answering in the middle of is ended, to be tried
// again later.
func TestMetricsOfCapacity(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	join := func(kept history.Limits, _ bool) *broker.Broker {
		return joinBrokerAt(t, proxy.URL(), 1, newPrefix(), kept)
	}
	h := newNode(t, openDoor(t), access.RatesConfig{}, join, func(hub *HubConfig, presence *PresenceConfig) {
		limits := testLimits
		limits.Total = 1 // nothing is kept near: the broker is asked for each chunk
		hub.Log, presence.Grace = history.NewMemory(limits), 0
	})
	h.nodes = []*testHub{h}
	cursor := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "0")["cursor"].(string)
	for range 3 {
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `"`+strings.Repeat("x", chunkBytes*3/4)+`"`)
	}
	var c *delivery.Connection
	moves(t, h.API.Handler(), map[string]float64{"streams_open": 1, `connects_total{resume="complete"}`: 1, `presence_profiles{status="online"}`: 1}, func() {
		var err error
		c, err = h.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "a"}, Cursor: cursor})
		is.NoErr(err)
	})
	rec := httptest.NewRecorder()
	moves(t, h.API.Handler(), map[string]float64{
		"ready": -1, "streams_open": -1, `closes_total{reason="unavailable"}`: 1, `presence_profiles{status="online"}`: -1, "deliveries_total": 1,
	}, func() {
		proxy.Cut() // a server that ends would first answer that it keeps nothing
		h.streams.Engine().Serve(rec, httptest.NewRequest("GET", "/", nil), c.Stream)
	})
	is.True(strings.Contains(rec.Body.String(), `event: hub.closing`+"\n"+`data: {"reason":"unavailable"`))
}
