package main

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
)

// Who was displaced is told to stay away for minutes, in retry: as well, which is all
// that a stock client listens to; who is sent away for the hub's sake is not.
func TestDisplacedStayAway(t *testing.T) {
	alone(t, "limits are each hub's own")
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Most, c.Retry = delivery.Limits{Profile: 1}, 10*time.Millisecond
	})
	stays := func(c *testClient, reason delivery.CloseReason, least time.Duration) {
		t.Helper()
		var closing struct {
			Reason  delivery.CloseReason
			RetryMS int64
		}
		is.NoErr(json.Unmarshal([]byte(c.until(t, "hub.closing").Data), &closing))
		is.Equal(closing.Reason, reason)
		wait := time.Duration(closing.RetryMS) * time.Millisecond
		is.True(wait >= least && wait < 2*least) // jittered
		told, _ := c.Reader.Retry()
		is.Equal(told, wait)
	}
	first := h.open(t, meQuery)
	retry, _ := first.Reader.Retry()
	is.Equal(retry, 10*time.Millisecond)
	second := h.open(t, meQuery)
	stays(first, delivery.CloseReplaced, 5*time.Minute)
	status, _ := h.do(t, http.MethodDelete, "/v1/tenants/acme/connections/"+second.ConnectionID, "")
	is.Equal(status, http.StatusNoContent)
	stays(second, delivery.CloseKicked, 5*time.Minute)
	third := h.open(t, meQuery) // and who comes nevertheless is told the usual again
	retry, _ = third.Reader.Retry()
	is.Equal(retry, 10*time.Millisecond)
	h.streams.Kick(h.streams.Connections("acme", nil)[0], delivery.CloseDrain)
	stays(third, delivery.CloseDrain, 10*time.Millisecond)
}
