package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

// Those who are turned away together come back one after the other, so many a second,
// however many they are; later it is as it was.
func TestReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var x returns
		now := time.Now()
		is.Equal(x.after(now, 10), time.Duration(0)) // one alone does not wait
		for n := range 600 {
			is.Equal(x.after(now, 10), time.Duration(n+1)*100*time.Millisecond)
		}
		for range 1000 {
			is.Equal(x.after(now, 10), longestAway)
		}
		is.Equal(x.after(now.Add(30*time.Second), 10), 30*time.Second+100*time.Millisecond)
		is.Equal(x.after(now.Add(2*time.Hour), 10), time.Duration(0))
	})
}

// Refused clients come back the slower the more there are, with jitter; a tenant that is
// at its own limit sends nobody else's away for longer.
func TestTheMoreAreTurnedAwayTheLaterTheyReturn(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Most = MostConnections{Tenant: 1, All: 2} }).nodes[0]
	h.open(t, "tenant=acme&profile=a")
	_, first := turned(t, h, "tenant=acme&profile=b")
	is.True(first <= 2*2*time.Second) // alone it waits as long as every one
	for range 60 * backOfTenant {
		h.Away("acme", ErrTenantFull)
	}
	_, last := turned(t, h, "tenant=acme&profile=b")
	is.True(last >= longestAway/2 && last <= 2*longestAway+4*time.Second)
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
	for n := range 60 * backOfAll {
		h.Away(fmt.Sprint("tenant-", n), ErrFull)
	}
	_, last = turned(t, h, "tenant=third&profile=c")
	is.True(last >= longestAway/2)
}

// However many come back when they are told to, only so many a second do.
func TestAStormOfReturnsCalms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const clients = 3_000
		x := &turnedAway{seed: maphash.MakeSeed()}
		ctx, stop := context.WithCancel(t.Context())
		var came atomic.Int64
		var all sync.WaitGroup
		for n := range clients {
			all.Go(func() {
				for ctx.Err() == nil {
					came.Add(1)
					time.Sleep(jittered(2*time.Second) + jittered(x.after(fmt.Sprint(n%300), true)))
				}
			})
		}
		time.Sleep(3 * time.Minute)
		before := came.Load()
		time.Sleep(3 * time.Minute)
		is.True(came.Load()-before <= 180*backOfAll*5/4) // and not 1,000 a second
		stop()
		all.Wait()
	})
}
