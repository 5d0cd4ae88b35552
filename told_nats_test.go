package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/presence"
)

// tellingHubs are n hubs, each of which can be cut off from the broker. Who is gone is offline after a
// grace. The box is the first one's.
func tellingHubs(t *testing.T, n int, grace, settle time.Duration, types ...outbox.Type) (nodes []*testHub, proxies []*natstest.Proxy, box outbox.Box) {
	t.Helper()
	alone(t, "it makes its own")
	br, prefix := natstest.Start(t, 1), newPrefix()
	for range n {
		proxy := natstest.StartProxy(t, br.URL(0))
		proxies = append(proxies, proxy)
		node := newTellingNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, Reporting{Types: types}, func(kept history.Limits, _ bool) *broker.Broker {
			return joinBrokerAt(t, proxy.URL(), 1, prefix, kept)
		}, func(hub *HubConfig, p *PresenceConfig) {
			hub.Retry, p.Grace, p.Settle = 500*time.Millisecond, grace, settle
		})
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		eventually(t, func() bool { return len(node.peers.Others()) == n-1 })
	}
	return nodes, proxies, nodes[0].outbox
}

// knows waits until all nodes know of somebody's status, wherever it was told.
func knows(t *testing.T, nodes []*testHub, p event.Profile, status presence.Status) {
	t.Helper()
	for _, node := range nodes {
		eventually(t, func() bool { return node.status(p) == status })
	}
}

// witness comes to a hub, and is told of: so would be what happened there before.
func witness(t *testing.T, node *testHub, box outbox.Box, name string) {
	t.Helper()
	node.open(t, "tenant=acme&profile="+name)
	eventually(t, func() bool { return lastOf(toldItems(t, box, "acme"))[name] == "online" })
}

// Of a change one hub tells, whoever has the connection; and who goes from one hub to another
// within the grace has not gone.
func TestOneHubOfManyTells(t *testing.T) {
	t.Parallel()
	nodes, _, box := tellingHubs(t, 3, 10*time.Second, 0, outbox.TypePresence)
	tells := func(want string) {
		t.Helper()
		eventually(t, func() bool {
			words := strings.Split(toldOf(t, box), ", ")
			alices := slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, "alice ") })
			return strings.Join(alices, ", ") == want
		})
	}
	for i, node := range nodes {
		c := node.open(t, "tenant=acme&profile=alice")
		knows(t, nodes, alice, presence.Online) // also those that have nobody there
		tells("alice online")
		c.close()
		witness(t, node, box, fmt.Sprint("witness", i))
	}
	knows(t, nodes, alice, presence.Offline)
	tells("alice online, alice offline")
}

// Who is sent away and comes back to another hub within the grace has not gone. A hub that sends
// its clients away tells no more: it does not know where they are.
func TestADrainIsNotTold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, _, box := tellingHubs(t, 3, 10*time.Second, 0, outbox.TypePresence)
	last := func(want map[string]string) {
		t.Helper()
		eventually(t, func() bool { return maps.Equal(lastOf(toldItems(t, box, "acme")), want) })
	}
	slices.SortFunc(nodes, func(a, b *testHub) int { // so that the foremost two go
		one, other := a.peers.Node(), b.peers.Node()
		return slices.Compare(one[:], other[:])
	})
	for i := range 2 {
		bobs := nodes[i].open(t, "tenant=acme&profile=bob")
		knows(t, nodes[i:], bob, presence.Online)
		nodes[i].settle(t) // or one that polls is not told
		nodes[i].streams.Drain(t.Context(), 0)
		bobs.until(t, "hub.closing")
		witness(t, nodes[2], box, fmt.Sprint("witness", i))
		nodes[i+1].open(t, "tenant=acme&profile=bob")
	}
	carols := nodes[2].open(t, "tenant=acme&profile=carol")
	last(map[string]string{"bob": "online", "carol": "online", "witness0": "online", "witness1": "online"})
	carols.close()
	last(map[string]string{"bob": "online", "carol": "offline", "witness0": "online", "witness1": "online"}) // after the grace, which is bob's, too
	is.True(!strings.Contains(toldOf(t, box), "bob offline"))
}

// Of a hub that is gone the others tell, also where it alone had anybody of a tenant. When it is
// back, so are its people.
func TestOthersTellOfAHubThatIsGone(t *testing.T) {
	t.Parallel()
	for nth, which := range []string{"the foremost", "the second", "the last"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			nodes, proxies, _ := tellingHubs(t, 3, time.Second, 10*time.Second, outbox.TypePresence, outbox.TypeGroupOccupied, outbox.TypeGroupVacated)
			nodes[0].changes(t, "PUT", "/v1/tenants/acme/groups/staff/members", `{"members":["alice"]}`)
			order := []int{0, 1, 2}
			slices.SortFunc(order, func(i, k int) int {
				a, b := nodes[i].peers.Node(), nodes[k].peers.Node()
				return slices.Compare(a[:], b[:])
			})
			gone := order[nth]
			left := slices.Delete(slices.Clone(nodes), gone, gone+1)
			last := func() map[string]string { return lastOf(toldItems(t, left[0].outbox, "acme")) }
			nodes[gone].open(t, "tenant=acme&profile=alice")
			knows(t, nodes, alice, presence.Online)
			eventually(t, func() bool { s := last(); return s["alice"] == "online" && s["staff"] == "group.occupied" })
			proxies[gone].Cut()
			knows(t, left, alice, presence.Offline)
			eventually(t, func() bool { s := last(); return s["alice"] == "offline" && s["staff"] == "group.vacated" })
			proxies[gone].Mend()
			knows(t, nodes, alice, presence.Online)
			eventually(t, func() bool { s := last(); return s["alice"] == "online" && s["staff"] == "group.occupied" })
			for _, c := range nodes[gone].streams.Connections("acme", nil) {
				nodes[gone].streams.Kick(c, delivery.CloseKicked)
			}
			knows(t, nodes, alice, presence.Offline)
			eventually(t, func() bool { s := last(); return s["alice"] == "offline" && s["staff"] == "group.vacated" })
		})
	}
}

// Of the connections of hubs that are gone the foremost of those that are left tells, also where
// the foremost goes together with another.
func TestOthersTellOfConnectionsOfHubsThatAreGone(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	nodes, proxies, _ := tellingHubs(t, 3, time.Second, 0, outbox.TypeConnected, outbox.TypeDisconnected)
	left := 0
	for i := range nodes { // the last of them stays
		if mark, last := nodes[i].peers.Node(), nodes[left].peers.Node(); slices.Compare(mark[:], last[:]) > 0 {
			left = i
		}
	}
	var ids []string
	for i, node := range nodes {
		c := node.open(t, "tenant=acme&profile=alice&meta.device=phone")
		if i != left {
			ids = append(ids, c.ConnectionID)
		}
	}
	eventually(t, func() bool { return len(nodes[left].Cluster.Remotes()["acme"]) == len(ids) })
	for i, proxy := range proxies {
		if i != left {
			proxy.Cut()
		}
	}
	closed := func() map[string]int {
		told := map[string]int{}
		for _, item := range toldItems(t, nodes[left].outbox, "acme") {
			if item.Type == outbox.TypeDisconnected {
				is.Equal([]any{item.Data.Reason, item.Data.Metadata, item.Data.Profile}, []any{"hubGone", map[string]string(nil), alice})
				told[item.Data.ID]++
			}
		}
		return told
	}
	eventually(t, func() bool { return maps.Equal(closed(), map[string]int{ids[0]: 1, ids[1]: 1}) })
}
