package main

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/testkit"
)

// Who waits for a tenant that is busy, to forget it, keeps nobody from another.
func TestABusyTenantKeepsNobodyFromOthers(t *testing.T) {
	alone(t, "several hubs forget a tenant without streams, and ask for it again")
	is := is.New(t)
	h := newTestHub(t)
	for _, name := range []string{"acme", "well"} {
		is.NoErr(untilConfirmed(func() error {
			return h.members.SetMembers(t.Context(), name, event.Room{Kind: event.KindGroup, ID: "g"}, []event.Profile{{Type: "user", ID: "1"}})
		}))
	}
	busy := h.tenants.Find("acme")
	forgotten := make(chan struct{})
	go func() {
		h.tenants.Forget("acme")
		close(forgotten)
	}()
	eventually(t, func() bool { return testkit.WaitsIn(".(*Tenants).Forget(") })
	free := h.tenants.Mu.TryRLock()
	if free {
		h.tenants.Mu.RUnlock()
	}
	busy.Mu.Unlock()
	<-forgotten
	is.True(free)                      // others are found meanwhile
	h.tenants.Find("acme").Mu.Unlock() // it is needed still
	h.tenants.Find("well").Mu.Unlock()
}

// Whoever writes streams does not wait for a busy tenant whose clients leave.
func TestABusyTenantKeepsNobodyFromBeingWritten(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	var well []*testClient
	for i := range 16 {
		well = append(well, h.open(t, fmt.Sprintf("tenant=well&profile=user:%d", i)))
	}
	var acme []*testClient
	for i := range 16 { // of each writer some
		acme = append(acme, h.open(t, fmt.Sprintf("tenant=acme&profile=user:%d", i)))
	}
	busy := h.tenants.Find("acme")
	for _, c := range acme {
		c.close()
	}
	eventually(t, func() bool { return testkit.WaitsIn(".(*Streams).ended(") })
	defer busy.Mu.Unlock()
	status, _ := h.post(t, "/v1/events", `{"tenantId":"well","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
	is.Equal(status, http.StatusAccepted)
	for _, c := range well {
		c.until(t, "a.b")
	}
}
