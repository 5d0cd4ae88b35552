package main

import (
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
)

// A call finds a connection, which ends before it is carried out: it is answered that
// there is none, and other hubs are not told of it again.
func TestCallsOfAConnectionThatHasJustGone(t *testing.T) {
	for name, hubs := range map[string]int{"alone": 1, "of two": 2} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			alone(t, "it makes its own")
			var nodes []*testHub
			if hubs == 1 {
				nodes = []*testHub{newTestHub(t)}
			} else {
				nodes = newCluster(t, hubs, natstest.Start(t, 1), openDoor(t), access.RatesConfig{}).nodes
			}
			h, other := nodes[0], nodes[hubs-1]
			c := h.Hub.streams.Connection(h.open(t, "tenant=acme&profile=gone").ConnectionID)
			other.open(t, "tenant=acme&profile=there") // so that it knows the tenant
			found := func(found bool, err error) bool {
				is.NoErr(err)
				return found
			}
			is.True(found(h.Cluster.Touch(t.Context(), c)))
			is.True(found(h.Cluster.Kick(t.Context(), c, delivery.CloseKicked)))

			is.True(!found(h.Cluster.Touch(t.Context(), c)))
			is.True(!found(h.Cluster.Prolong(t.Context(), c, c.ConnectedAt)))
			is.True(!found(h.Cluster.Adjust(t.Context(), c, nil, &[]event.Profile{})))
			is.True(!found(h.Cluster.Kick(t.Context(), c, delivery.CloseKicked)))

			last := h.open(t, "tenant=acme&profile=last") // told after all that
			if hubs > 1 {
				eventually(t, func() bool {
					x := &other.Cluster.Elsewhere
					x.Mu.RLock()
					defer x.Mu.RUnlock()
					acme := x.Tenants["acme"]
					return len(acme.Profiles[event.Profile{Type: "user", ID: "last"}]) == 1 && len(acme.ByID) == 1 // the last alone
				})
			}
			last.close()
		})
	}
}
