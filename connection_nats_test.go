package main

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"

	"realtimehub/internal/natstest"
)

// guarded is one server that asks for a password, and what sets another.
func guarded(t *testing.T) (b *natstest.Broker, url string, set func(password string)) {
	t.Helper()
	b = theBroker(t)
	set = func(password string) {
		b.Reload(t, 0, func(o *server.Options) { o.Username, o.Password = "hub", password })
	}
	set("good")
	return b, strings.Replace(b.URL(0), "//", "//hub:good@", 1), set
}

// The server refuses a hub's credentials for a while, as when a new file is being rolled
// out: the hub goes on asking, and is there again once they are good.
func TestRefusedByTheServer(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	_, url, set := guarded(t)
	var logs syncBuffer
	prefix := newPrefix()
	h := newNode(t, openDoor(t), LimitsConfig{}, func(limits MemoryLimits, _ bool) *Broker {
		return joinBrokerAt(t, url, 1, prefix, limits, func(cfg *BrokerConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&logs, nil)) })
	})
	h.nodes = []*testHub{h}
	eventually(t, func() bool { return h.isReady(t) })
	set("other")
	eventually(t, func() bool { return strings.Count(logs.String(), "uthorization") >= 2 })
	time.Sleep(2 * time.Second) // it would be closed for good
	is.True(!h.isReady(t))
	set("good")
	h.becomes(t, true)
}

// A server says something after which the client library gives up for good, and nothing
// would bring it back: who runs the hub has to know.
func TestClosedForGood(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	b := theBroker(t)
	h := newCluster(t, 1, b, openDoor(t), LimitsConfig{})
	is.True(h.publishes(t))
	b.Reload(t, 0, func(o *server.Options) { o.MaxPayload = 300 })
	h.post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":"`+strings.Repeat("x", 1000)+`","target":{"kind":"tenant"}}`)
	h.becomes(t, false)
	h.becomes(t, true)
}

// The server that a hub is connected to is cut off from the others: it answers what it can
// by itself, and others are in reach.
func TestMovesFromACutOffServer(t *testing.T) {
	is := is.New(t)
	proxies := natstest.Start(t, 3).Proxies(t)
	h := proxied(t, 3, proxies)
	eventually(t, func() bool { return h.isReady(t) && h.publishes(t) })
	var cut atomic.Int64
	cut.Store(-1)
	for i, p := range proxies {
		p.Rule(func(m *natstest.Message) (v natstest.Verdict) {
			if m.FromServer || m.Verb != "PUB" && m.Verb != "HPUB" {
				return v
			}
			cut.CompareAndSwap(-1, int64(i)) // where the hub is
			v.Drop = cut.Load() == int64(i)
			return v
		})
	}
	start := time.Now()
	h.becomes(t, false)
	t.Logf("not ready after %v", time.Since(start))
	h.becomes(t, true)
	t.Logf("ready again after %v", time.Since(start))
	is.True(h.publishes(t))
}
