package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
)

// A hub that was given up has not heard of a refresh: when it is back, it asks the service
// again before it delivers.
func TestARefreshWhileAHubWasAway(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	alone(t, "it makes its own")
	service := &roomtest.Service{Members: `"me","you"`}
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	broker := natstest.Start(t, 1)
	proxy, prefix := natstest.StartProxy(t, broker.URL(0)), newPrefix()
	var nodes []*testHub
	for _, url := range []string{broker.URL(0), proxy.URL()} {
		node := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, external bool) *Broker {
			return joinBrokerAt(t, url, 1, prefix, kept, func(cfg *BrokerConfig) { cfg.Prepare = external })
		}, func(hub *HubConfig, _ *PresenceConfig) {
			hub.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
		})
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	a, b := nodes[0], nodes[1]
	eventually(t, func() bool { return len(a.Cluster.peers.Others()) == 1 })
	me, you := b.open(t, meQuery), b.open(t, "tenant=acme&profile=you")
	say := func(what string) {
		a.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, what)
	}
	say(`"to both"`)
	is.Equal(string(openEnvelope(t, me.next(t)).Payload), `"to both"`)
	is.Equal(string(openEnvelope(t, you.next(t)).Payload), `"to both"`)

	proxy.Cut()
	service.Set(func() { service.Members = `"me"` })
	eventually(t, func() bool { // once it is given up
		status, _ := a.post(t, refreshRoom, "")
		return status == http.StatusNoContent
	})
	say(`"to me"`)
	a.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	proxy.Mend()
	is.Equal(string(openEnvelope(t, me.next(t)).Payload), `"to me"`)
	is.Equal(you.next(t).Type, markerType) // who was removed gets nothing
}
