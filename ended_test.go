package main

import (
	"net/http"
	"testing"

	"github.com/matryer/is"
)

// A publish whose body comes after a hub has ended its streams is not acknowledged: in
// memory nobody would ever have it.
func TestALatePublishIsRefused(t *testing.T) {
	is := is.New(t)
	alone(t, "the hub ends")
	h := newTestHub(t)
	h.API.Published(t.Context())
	status, body := h.do(t, http.MethodPost, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(body["code"], "Draining")
	status, body = h.do(t, http.MethodGet, "/v1/tenants/acme/events", "")
	is.Equal(status, http.StatusOK)
	is.Equal(len(body["events"].([]any)), 0) // nothing was stored
}
