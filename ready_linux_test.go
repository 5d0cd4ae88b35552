package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// wrongFor is how long /readyz may say what is not so.
const wrongFor = 3 * time.Second

// readiness watches /readyz until the test ends.
type readiness struct {
	t     *testing.T
	hub   *testHub
	ready atomic.Bool
}

func (h *testHub) isReady(t testing.TB) bool {
	t.Helper()
	status, _ := h.do(t, "GET", "/readyz", "")
	return status == http.StatusOK
}

// publishes says whether a publish is taken.
func (h *testHub) publishes(t testing.TB) bool {
	t.Helper()
	status, _ := h.post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
	return status == http.StatusAccepted
}

// becomes waits until /readyz says so, and says how long that took.
func (h *testHub) becomes(t *testing.T, ready bool) time.Duration {
	t.Helper()
	start := time.Now()
	eventually(t, func() bool { return h.isReady(t) == ready })
	return time.Since(start)
}

// proxied is a hub that reaches servers through proxies alone.
func proxied(t *testing.T, replicas int, proxies []*natstest.Proxy, change ...func(*BrokerConfig)) *testHub {
	t.Helper()
	alone(t, "it makes its own")
	var urls []string
	for _, p := range proxies {
		urls = append(urls, p.URL())
	}
	prefix := newPrefix()
	h := newNode(t, openDoor(t), LimitsConfig{}, func(limits MemoryLimits, _ bool) *Broker {
		return joinBrokerAt(t, strings.Join(urls, ","), replicas, prefix, limits, change...)
	})
	h.nodes = []*testHub{h}
	return h
}

// With two of three servers dead nothing can be stored, whatever the third says.
func TestNotReadyWithoutQuorum(t *testing.T) {
	is := is.New(t)
	servers := natstest.StartProcesses(t, 3)
	h := hubsOn(t, servers, 3, 1)[0]
	eventually(t, func() bool { return h.isReady(t) && h.publishes(t) })
	servers.Kill(1)
	servers.Kill(2)
	killed := time.Now()
	var wrong []string
	for time.Since(killed) < 15*time.Second {
		if h.isReady(t) && time.Since(killed) > wrongFor {
			wrong = append(wrong, time.Since(killed).Round(100*time.Millisecond).String())
		}
		time.Sleep(100 * time.Millisecond)
	}
	is.Equal(wrong, nil) // it was ready after
	is.True(!h.publishes(t))
	servers.Start(t, 1)
	servers.Start(t, 2)
	eventually(t, func() bool { return h.publishes(t) })
	is.True(h.becomes(t, true) < wrongFor)
}

// What is stored is lost on its way, but for what is asked: it is a disk that hangs. Or it
// is refused, as by a disk that is full.
func TestNotReadyWhenNothingIsStored(t *testing.T) {
	for _, what := range []string{"hangs", "full", "table"} {
		t.Run(what, func(t *testing.T) {
			is := is.New(t)
			proxies := theBroker(t).Proxies(t)
			h := proxied(t, 1, proxies)
			eventually(t, func() bool { return h.isReady(t) && h.publishes(t) })
			of := fmt.Sprint("test", prefixes.Load())
			isStored := func(m *natstest.Message) bool {
				if what == "table" {
					return strings.HasPrefix(m.Subject, of+".row.") || strings.HasSuffix(m.Subject, of+"_table")
				}
				for _, kind := range []string{".ev.", ".id.", ".cut.", ".row."} {
					if strings.HasPrefix(m.Subject, of+kind) {
						return true
					}
				}
				return false
			}
			answers := map[string]bool{} // to what would be stored; one connection asks
			var answered atomic.Pointer[map[string]bool]
			answered.Store(&answers)
			proxies[0].Rule(func(m *natstest.Message) (v natstest.Verdict) {
				v.Drop = !m.FromServer && isStored(m)
				return v
			})
			lost := time.Now()
			if what != "table" {
				is.True(!h.publishes(t))
			}
			h.becomes(t, false)
			is.True(time.Since(lost) < wrongFor)
			for range 30 {
				is.True(!h.isReady(t))
				time.Sleep(100 * time.Millisecond)
			}
			proxies[0].Rule(nil)
			is.True(h.becomes(t, true) < wrongFor)
		})
	}
}

var _ = bytes.MinRead
var _ = context.Background
var _ = io.EOF
