package access

import (
	"context"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
)

func TestPublishRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		limits := NewRates(RatesConfig{PublishRate: 100, ClientRate: 2})
		for range 100 {
			is.NoErr(limits.Publish(map[string]int{"acme": 1}))
		}
		err := limits.Publish(map[string]int{"acme": 1})
		is.True(err != nil)
		is.Equal(err.(*RateError).After, 10*time.Millisecond)
		is.NoErr(limits.Publish(map[string]int{"globex": 100})) // another's limit is its own
		time.Sleep(10 * time.Millisecond)
		is.NoErr(limits.Publish(map[string]int{"acme": 1}))
		is.True(limits.Publish(map[string]int{"acme": 1}) != nil)

		time.Sleep(time.Second)
		is.NoErr(limits.Publish(map[string]int{"acme": 1000})) // more than fit: taken from a full bucket, and owed
		is.True(limits.Publish(map[string]int{"acme": 1}) != nil)
		time.Sleep(8 * time.Second)
		is.True(limits.Publish(map[string]int{"acme": 1}) != nil)
		time.Sleep(time.Second + 10*time.Millisecond)
		is.NoErr(limits.Publish(map[string]int{"acme": 1}))

		start := time.Now()
		for range 500 {
			is.NoErr(limits.AwaitPublish(t.Context(), map[string]int{"waiting": 1}))
		}
		is.Equal(time.Since(start).Round(50*time.Millisecond), 4*time.Second)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		is.True(limits.AwaitPublish(ended, map[string]int{"waiting": 1}) != nil)

		one, two := event.Profile{Type: "user", ID: "1"}, event.Profile{Type: "user", ID: "2"}
		is.NoErr(limits.Client(event.TenantProfile{Tenant: "acme", Profile: one}))
		is.NoErr(limits.Client(event.TenantProfile{Tenant: "acme", Profile: one}))
		is.True(limits.Client(event.TenantProfile{Tenant: "acme", Profile: one}) != nil)
		is.NoErr(limits.Client(event.TenantProfile{Tenant: "acme", Profile: two}))
		is.NoErr(limits.Client(event.TenantProfile{Tenant: "globex", Profile: one}))

		// Tenants that were named once cost nothing in the long run.
		for i := range 100_000 {
			is.NoErr(limits.Publish(map[string]int{strconv.Itoa(i): 1}))
			time.Sleep(time.Millisecond)
		}
		is.True(limits.publishing.kept.Len() < 5000)
	})
}

// In open mode an address has as many.
func TestProbesAreFewForAnAddress(t *testing.T) {
	is := is.New(t)
	limits, far := NewRates(RatesConfig{}), httptest.NewRequest("GET", "/", nil) // of 192.0.2.1
	near := far.Clone(t.Context())
	near.RemoteAddr = "[2001:db8::1]:1234"
	who, err := newAuth(t, Config{}).Admit(far, ScopeSubscribe, false)
	is.NoErr(err)
	var over []func()
	for range maxOwnProbes {
		end, err := limits.Probe(who.Holder(far))
		is.NoErr(err)
		over = append(over, end)
	}
	far.RemoteAddr = "192.0.2.1:4321"
	_, err = limits.Probe(who.Holder(far))
	is.Equal(err, errOwnProbes)
	_, err = limits.Probe(who.Holder(near))
	is.NoErr(err)
	for _, end := range over {
		end()
	}
	is.Equal(len(limits.ownProbes), 1) // nothing is left of who has none
	is.Equal(limits.Met()["probe"], int64(1))
}
