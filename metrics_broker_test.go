package main

import (
	"context"
	"encoding/base32"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
)

// What hubs share is counted where it happens: a publish by the hub that accepted
// it, a delivery by the one that has the stream.
func TestClusterMetrics(t *testing.T) {
	is := is.New(t)
	_, nodes := threeHubs(t)
	here, there := nodes[0], nodes[1]
	client, beside := there.open(t, "tenant=acme&profile=a"), here.open(t, "tenant=acme&profile=b")
	for _, node := range []*testHub{here, there} { // each knows of both
		eventually(t, func() bool { return scrape(t, node.API.Handler())[`realtime_presence_profiles{status="online"}`] == 2 })
	}
	here.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "0")
	is.Equal(client.until(t, "a.b").Type, "a.b")
	is.Equal(beside.until(t, "a.b").Type, "a.b")
	delivered := map[string]float64{"deliveries_total": 1, "publish_to_write_seconds_count": 1, "history_events": 1}
	accepted := maps.Clone(delivered)
	accepted[`events_accepted_total{target="tenant"}`] = 1
	for _, node := range []*testHub{here, there} { // what was told before is counted
		before := -1.0
		eventually(t, func() bool {
			was := before
			before = scrape(t, node.API.Handler())["realtime_deliveries_total"]
			return before == was
		})
	}
	moves(t, there.API.Handler(), delivered, func() {
		moves(t, here.API.Handler(), accepted, func() {
			here.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			is.Equal(client.next(t).Type, "a.b")
			is.Equal(beside.next(t).Type, "a.b")
		})
	})
	is.Equal(there.Stats().Closes[delivery.CloseClient], int64(0))
}

// What the broker did not confirm is counted by event; its publishers were told.
func TestMetricsOfUnconfirmed(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	broker := natstest.Start(t, 1)
	h := newCluster(t, 1, broker, openDoor(t), access.RatesConfig{})
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	event := eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")
	// Three of a batch, which is one call, and two lines.
	moves(t, h.API.Handler(), map[string]float64{"ready": -1, "events_unconfirmed_total": 3 + 2, `events_refused_total{code="Unconfirmed"}`: 1 + 2}, func() {
		broker.Stop(0)
		_, answer := h.post(t, "/v1/events/batch", `{"events":[`+event+`,`+event+`,`+event+`]}`)
		is.Equal(answer["code"], "Unconfirmed")
		res, err := h.client.Post(h.URL+"/v1/events", "application/x-ndjson", strings.NewReader(event+"\n"+event+"\n"))
		is.NoErr(err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	})
}

// What in the shared history is no event to this hub is counted once by each that
// follows the tenant, also where it is prepared for first.
func TestMetricsOfUnreadable(t *testing.T) {
	alone(t, "it makes its own")
	for name, resolver := range map[string]room.Resolver{"own": room.Own{}, "external": room.NewService("http://127.0.0.1:1", "", nil)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			broker := natstest.Start(t, 1)
			all := newCluster(t, 2, broker, openDoor(t), access.RatesConfig{}, func(hub *HubConfig, _ *PresenceConfig) { hub.Resolver = resolver })
			here, there := all.nodes[0], all.nodes[1]
			a, b := here.open(t, "tenant=acme&profile=a"), there.open(t, "tenant=acme&profile=b")
			here.open(t, "tenant=other&profile=a")
			nc := broker.Connect(t, 0)
			js, err := jetstream.New(nc)
			is.NoErr(err)
			prefix := ""
			for name := range js.StreamNames(t.Context()).Name() {
				if before, journal := strings.CutSuffix(name, "_journal"); journal {
					prefix = before
				}
			}
			subject := fmt.Sprintf("%s.ev.%s", prefix, base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte("acme")))
			want := map[string]float64{`drops_total{reason="unreadable"}`: 2, "history_events": 2}
			moves(t, here.API.Handler(), want, func() {
				moves(t, there.API.Handler(), want, func() {
					for _, foreign := range []string{"no JSON", `{"id":"x","tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"},"since":"version 2"}`} {
						_, err := nc.Request(subject, []byte(foreign), time.Minute)
						is.NoErr(err)
					}
				})
			})
			here.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			is.Equal(a.next(t).Type, "a.b") // what comes after it comes
			is.Equal(b.next(t).Type, "a.b")
		})
	}
}

// A resume that the broker stops answering in the middle of is ended, to be tried
// again later.
func TestMetricsOfCapacity(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	broker := natstest.Start(t, 1)
	h := newCluster(t, 1, broker, openDoor(t), access.RatesConfig{}, func(hub *HubConfig, presence *PresenceConfig) {
		limits := testLimits
		limits.Total = 1 // nothing is kept near: the broker is asked for each chunk
		hub.Log, presence.Grace = history.NewMemory(limits), 0
	})
	cursor := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "0")["cursor"].(string)
	for range 3 {
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `"`+strings.Repeat("x", delivery.ChunkBytes*3/4)+`"`)
	}
	var c *delivery.Connection
	moves(t, h.API.Handler(), map[string]float64{"streams_open": 1, `connects_total{resume="complete"}`: 1, `presence_profiles{status="online"}`: 1}, func() {
		var err error
		c, err = h.streams.Connect(context.Background(), delivery.Subscription{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "a"}, Cursor: cursor})
		is.NoErr(err)
	})
	rec := httptest.NewRecorder()
	moves(t, h.API.Handler(), map[string]float64{
		"ready": -1, "streams_open": -1, `closes_total{reason="unavailable"}`: 1, `presence_profiles{status="online"}`: -1, "deliveries_total": 1,
	}, func() {
		broker.Stop(0)
		h.streams.Engine().Serve(rec, httptest.NewRequest("GET", "/", nil), c.Stream)
	})
	is.True(strings.Contains(rec.Body.String(), `event: hub.closing`+"\n"+`data: {"reason":"unavailable"`))
}
