package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
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
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Most = MostConnections{Tenant: 1, All: 2} }).nodes[0]
	h.open(t, "tenant=acme&profile=a")
	_, first := turned(t, h, "tenant=acme&profile=b")
	is.True(first <= 2*2*time.Second) // alone it waits as long as every one
	for range 60 * 50 {
		h.Away("acme", ErrTenantFull)
	}
	_, last := turned(t, h, "tenant=acme&profile=b")
	is.True(last >= time.Minute/2 && last <= 2*time.Minute+4*time.Second)
	is.Equal(h.Away("acme", ErrDraining), time.Duration(0)) // another hub has room
	long := 0
	for n := range 100 {
		if h.Away(fmt.Sprint("tenant-", n), ErrFull) > 5*time.Second {
			long++
		}
	}
	is.True(long < 10) // but for those that share with acme, by chance

	h.open(t, "tenant=other&profile=a") // the hub is full
	_, err := h.Connect(t.Context(), Subscription{Tenant: "third", Profile: event.Profile{Type: "user", ID: "c"}})
	is.True(errors.Is(err, ErrFull) && !errors.Is(err, ErrTenantFull))
	for n := range 60 * 200 {
		h.Away(fmt.Sprint("tenant-", n), ErrFull)
	}
	_, last = turned(t, h, "tenant=third&profile=c")
	is.True(last >= time.Minute/2)
}
