package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
)

// Another hub knows who belongs to a room, and this one has never been told, since the
// service does not answer it: whoever is connected here may have missed what was said there,
// and hears so.
func TestARoomThatOnlyAnotherHubKnows(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	alone(t, "it makes its own")
	br, prefix := natstest.Start(t, 1), newPrefix()
	var nodes []*testHub
	away := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	for _, service := range []http.Handler{&roomtest.Service{Members: `"me"`}, away} {
		server := httptest.NewServer(service)
		t.Cleanup(server.Close)
		node := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, external bool) *broker.Broker {
			return joinBrokerAt(t, br.URL(0), 1, prefix, kept, func(cfg *broker.Config) { cfg.Prepare = external })
		}, func(hub *HubConfig, _ *PresenceConfig) {
			hub.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
		})
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	a, b := nodes[0], nodes[1]
	eventually(t, func() bool { return len(a.peers.Others()) == 1 })
	me := b.open(t, meQuery)
	said := a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "1")["cursor"].(string)
	a.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	gap := me.next(t)
	is.Equal(gap.Type, "hub.gap")
	is.True(strings.Contains(gap.Data, `"membership"`))
	is.Equal(gap.ID, said)
	is.Equal(me.next(t).Type, markerType)
	is.Equal(b.Stats().Gaps[delivery.GapMembership], int64(1))
}
