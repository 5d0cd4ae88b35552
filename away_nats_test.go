package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
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
	br := natstest.Start(t, 1)
	proxy, prefix := natstest.StartProxy(t, br.URL(0)), newPrefix()
	var nodes []*testHub
	for _, url := range []string{br.URL(0), proxy.URL()} {
		node := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, external bool) *broker.Broker {
			return joinBrokerAt(t, url, 1, prefix, kept, func(cfg *broker.Config) { cfg.Prepare = external })
		}, func(hub *HubConfig, _ *PresenceConfig) {
			hub.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
		})
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	a, b := nodes[0], nodes[1]
	eventually(t, func() bool { return len(a.peers.Others()) == 1 })
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

// A hub that is cut off does not answer from what it knew: others may have changed it, and
// not have waited.
func TestMembersOfAHubThatIsAway(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := behindProxies(t, natstest.Start(t, 1), 2)
	b := nodes[1]
	const members = "/v1/tenants/acme/conversations/r/members"
	nodes[0].changes(t, "PUT", members, `{"members":["me"]}`)
	b.open(t, meQuery)
	status, _ := b.answered(t, "GET", members, "")
	is.Equal(status, http.StatusOK)
	proxies[0].Cut()
	eventually(t, func() bool { return !b.tenants.SureNow() })
	status, _ = b.do(t, "GET", members, "")
	is.Equal(status, http.StatusServiceUnavailable)
}
