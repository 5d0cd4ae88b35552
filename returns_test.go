package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// closingIn reads a hub.closing.
func closingIn(t testing.TB, data string) (reason string, wait time.Duration) {
	t.Helper()
	var word struct {
		Reason  string
		RetryMS int64
	}
	if err := json.Unmarshal([]byte(data), &word); err != nil {
		t.Fatal(err)
	}
	return word.Reason, time.Duration(word.RetryMS) * time.Millisecond
}

// Refused clients come back the slower the more there are, with jitter; a tenant that is
// at its own limit sends nobody else's away for longer.
func TestTheMoreAreTurnedAwayTheLaterTheyReturn(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Most = delivery.Limits{Tenant: 1, All: 2} }).nodes[0]
	h.open(t, "tenant=acme&profile=a")
	_, first := turned(t, h, "tenant=acme&profile=b")
	is.True(first <= 2*2*time.Second) // alone it waits as long as every one
	for range 60 * 50 {
		h.streams.Away("acme", delivery.ErrTenantFull)
	}
	_, last := turned(t, h, "tenant=acme&profile=b")
	is.True(last >= time.Minute/2 && last <= 2*time.Minute+4*time.Second)
	is.Equal(h.streams.Away("acme", delivery.ErrDraining), time.Duration(0)) // another hub has room
	long := 0
	for n := range 100 {
		if h.streams.Away(fmt.Sprint("tenant-", n), delivery.ErrFull) > 5*time.Second {
			long++
		}
	}
	is.True(long < 10) // but for those that share with acme, by chance

	h.open(t, "tenant=other&profile=a") // the hub is full
	_, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "third", Profile: event.Profile{Type: "user", ID: "c"}})
	is.True(errors.Is(err, delivery.ErrFull) && !errors.Is(err, delivery.ErrTenantFull))
	for n := range 60 * 200 {
		h.streams.Away(fmt.Sprint("tenant-", n), delivery.ErrFull)
	}
	_, last = turned(t, h, "tenant=third&profile=c")
	is.True(last >= time.Minute/2)
}
