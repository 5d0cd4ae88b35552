package cluster

import (
	"encoding/base32"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// What hubs share is counted where it happens: a publish by the hub that accepted
// it, a delivery by the one that has the stream.
func TestClusterMetrics(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes := threeHubs(t)
	here, there := nodes[0], nodes[1]
	client, beside := there.Open(t, "tenant=acme&profile=a"), here.Open(t, "tenant=acme&profile=b")
	for _, node := range nodes[:2] { // each knows of both
		eventually(t, func() bool { return node.Metric(t, `realtime_presence_profiles{status="online"}`) == 2 })
	}
	here.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "0")
	is.Equal(client.Until(t, "a.b").Type, "a.b")
	is.Equal(beside.Until(t, "a.b").Type, "a.b")
	delivered := map[string]float64{"deliveries_total": 1, "publish_to_write_seconds_count": 1, "history_events": 1}
	accepted := maps.Clone(delivered)
	accepted[`events_accepted_total{target="tenant"}`] = 1
	for _, node := range nodes[:2] { // that is counted
		eventually(t, func() bool { return node.Metric(t, "realtime_deliveries_total") == 1 })
	}
	there.Moves(t, delivered, func() {
		here.Moves(t, accepted, func() {
			here.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			is.Equal(client.Next(t).Type, "a.b")
			is.Equal(beside.Next(t).Type, "a.b")
		})
	})
	is.Equal(there.Scrape(t)[`realtime_closes_total{reason="client"}`], 0.0)
}

// What the broker did not confirm is counted by event; its publishers were told.
func TestMetricsOfUnconfirmed(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1).Proxies(t)[0]
	h := hubtest.Start(t, hubtest.Shared(1, "test", broker.URL())...)
	h.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	event := eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")
	// Three of a batch, which is one call, and two lines.
	h.Moves(t, map[string]float64{"ready": -1, "events_unconfirmed_total": 3 + 2, `events_refused_total{code="Unconfirmed"}`: 1 + 2}, func() {
		broker.Cut() // a server that ends would first answer that it keeps nothing
		_, answer := h.Post(t, "/v1/events/batch", `{"events":[`+event+`,`+event+`,`+event+`]}`)
		is.Equal(answer["code"], "Unconfirmed")
		res, err := h.Client.Post(h.URL+"/v1/events", "application/x-ndjson", strings.NewReader(event+"\n"+event+"\n"))
		is.NoErr(err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		is.Equal(res.StatusCode, http.StatusOK)
	})
}

// What in the shared history is no event to this hub is counted once by each that
// follows the tenant, also where it is prepared for first.
func TestMetricsOfUnreadable(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{"own": nil, "external": {"REALTIME_MEMBERSHIP_URL=http://127.0.0.1:1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			broker := natstest.Start(t, 1)
			nodes := hubtest.StartCluster(t, 2, broker, settings...)
			here, there := nodes[0], nodes[1]
			a, b := here.Open(t, "tenant=acme&profile=a"), there.Open(t, "tenant=acme&profile=b")
			here.Open(t, "tenant=other&profile=a")
			for _, node := range nodes { // each knows of all
				eventually(t, func() bool { return node.Metric(t, `realtime_presence_profiles{status="online"}`) >= 2 })
			}
			nc := broker.Connect(t, 0)
			subject := "test.ev." + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte("acme"))
			for _, foreign := range []string{"no JSON", `{"id":"x","tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"},"since":"version 2"}`} {
				_, err := nc.Request(subject, []byte(foreign), time.Minute)
				is.NoErr(err)
			}
			for _, node := range nodes { // once each; how far the history moves beside that is up to hubs that try whether it does
				eventually(t, func() bool { return node.Metric(t, `realtime_drops_total{reason="unreadable"}`) >= 2 })
			}
			here.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			is.Equal(a.Next(t).Type, "a.b") // what comes after it comes
			is.Equal(b.Next(t).Type, "a.b")
			for _, node := range nodes {
				is.Equal(node.Metric(t, `realtime_drops_total{reason="unreadable"}`), 2.0)
			}
		})
	}
}
