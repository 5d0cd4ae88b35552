package main

import (
	"encoding/json"
	"strings"
	"testing"

	"realtimehub/internal/access"
	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
	"realtimehub/internal/presence"
)

// alone skips, on a cluster, a test of what each hub has to itself.
func alone(t testing.TB, why string) {
	t.Helper()
	if *clusterFlag > 0 || *folderFlag {
		t.Skip("not on a cluster: ", why)
	}
}

// threeHubs share a broker cluster of three: all of them, taking turns, and each.
func threeHubs(t testing.TB, configure ...func(*HubConfig, *PresenceConfig)) (all *testHub, nodes []*testHub) {
	t.Helper()
	alone(t, "it makes its own")
	all = newCluster(t, 3, natstest.Start(t, 3), openDoor(t), access.RatesConfig{}, configure...)
	return all, all.nodes
}

// presences are of whom a client was told what, up to a marker.
func (h *testHub) presences(t testing.TB, c *testClient) string {
	t.Helper()
	var words []string
	for _, ev := range h.received(t, "acme", c)[0] {
		var e struct {
			Payload struct {
				Profile event.Profile
				Status  string
			}
		}
		if err := json.Unmarshal([]byte(ev.Data), &e); err != nil {
			t.Fatal(err)
		}
		words = append(words, e.Payload.Profile.ID+" "+e.Payload.Status)
	}
	return strings.Join(words, ", ")
}

func (h *testHub) status(ref event.Profile) presence.Status {
	return h.people.Of("acme", []event.Profile{ref})[0].Status
}
