package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/presence"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// aPair share a broker of one server.
func aPair(t testing.TB, broker *natstest.Broker, configure ...func(*HubConfig, *PresenceConfig)) (a, b *testHub) {
	t.Helper()
	alone(t, "it makes its own")
	many := func(hub *HubConfig, _ *PresenceConfig) { hub.Most.Profile = 0 }
	nodes := newCluster(t, 2, broker, openDoor(t), access.RatesConfig{ClientRate: -1}, append(configure, many)...).nodes
	return nodes[0], nodes[1]
}

// connect opens n connections that nobody reads.
func (h *testHub) connect(t testing.TB, n int, profile func(i int) event.Profile, metadata map[string]string) {
	t.Helper()
	for i := range n {
		h.mustConnect(t, delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: profile(i), Watch: []event.Profile{}, Metadata: metadata})
	}
}

// largeMetadata is as much as a connection may have.
func largeMetadata() map[string]string {
	large := map[string]string{}
	for i := range 16 {
		large[fmt.Sprint("key-", i, strings.Repeat("k", 240))] = strings.Repeat("<", 256) // JSON in Go makes six of one
	}
	return large
}

// everybody is all pages of a list of connections, by id, and the count of the first.
func (h *testHub) everybody(t testing.TB, query string) (ids []string, count any) {
	t.Helper()
	for after := ""; ; {
		var answer map[string]any
		eventually(t, func() bool { // a hub that is slow is asked again
			var status int
			status, answer = h.do(t, "GET", "/v1/tenants/acme/connections?limit=1000&"+query+"&after="+after, "")
			return status == http.StatusOK
		})
		for _, c := range answer["connections"].([]any) {
			ids = append(ids, c.(map[string]any)["id"].(string))
		}
		if count == nil {
			count = answer["count"]
		}
		next, more := answer["next"].(string)
		if !more {
			return ids, count
		}
		after = next
	}
}

// What changes a connection through its own hub changes it through another as well:
// nothing, empty and all stay apart on the way.
func TestAdjustThroughAnotherHub(t *testing.T) {
	t.Parallel()
	a, b := aPair(t, theBroker(t), func(_ *HubConfig, p *PresenceConfig) { p.Audience = settings.AudienceTenant })
	for i, body := range []string{
		`{"types":[]}`, `{"types":["*"]}`, `{"types":["a.b","c.*"]}`, `{"types":null}`,
		`{"presence":["*"]}`, `{"presence":[]}`, `{"presence":["none"]}`, `{"presence":["user:<7>"]}`, `{"presence":null}`,
		`{}`, `{"types":[],"presence":["*"]}`,
	} {
		t.Run(body, func(t *testing.T) {
			is := is.New(t)
			var got []string
			for by, through := range []*testHub{a, b} {
				tenant := fmt.Sprintf("acme-%d-%d", i, by)
				client := a.open(t, "tenant="+tenant+"&profile=me&types=x.y&presence=user:1")
				eventually(t, func() bool { // a hub that is slow is asked again
					status, _ := through.do(t, "PATCH", "/v1/connections/"+client.ConnectionID, body)
					return status == http.StatusNoContent
				})
				got = append(got, a.wants(t, tenant, client))
			}
			is.Equal(got[1], got[0])
		})
	}
}

// wants ends a client, and returns which types of events it had of some, and whose presence
// it would have with all types.
func (h *testHub) wants(t *testing.T, tenant string, c *testClient) string {
	t.Helper()
	is := is.New(t)
	for _, kind := range []string{"x.y", "a.b", "c.d"} {
		h.publish(t, tenant, kind, `{"kind":"tenant"}`, "1")
	}
	status, _ := h.do(t, "PATCH", "/v1/connections/"+c.ConnectionID, `{"types":["presence.online"]}`)
	is.Equal(status, http.StatusNoContent)
	seer := h.open(t, "profile=seer&types=presence.online&tenant="+tenant)
	for _, who := range []string{"1", "<7>", "other"} {
		h.open(t, "tenant="+tenant+"&profile="+url.QueryEscape("user:"+who))
		for seen(t, seer.until(t, "presence.online")).ID != who {
		}
	}
	h.do(t, "DELETE", "/v1/tenants/"+tenant+"/connections/"+c.ConnectionID, "")
	var got []string
	for ev := c.next(t); ev.Type != "hub.closing"; ev = c.next(t) {
		if who := seen(t, ev).ID; who != "me" && who != "seer" {
			got = append(got, ev.Type+" "+who)
		}
	}
	return strings.Join(got, ", ")
}

// seen is whose presence an event tells.
func seen(t *testing.T, ev sse.Event) event.Profile {
	t.Helper()
	var who struct{ Profile event.Profile }
	if payload := openEnvelope(t, ev).Payload; payload[0] == '{' {
		if err := json.Unmarshal(payload, &who); err != nil {
			t.Fatal(err)
		}
	}
	return who.Profile
}

// However much another hub has to tell of connections, it is told, in the server's
// messages, and all of a profile's are closed.
func TestManyConnectionsElsewhere(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]struct {
		message     int32 // bytes, at most
		many, large int   // connections: several messages' worth
	}{
		"":                   {1 << 20, 6000, 300},
		" in small messages": {64 << 10, 1500, 60},
	} {
		t.Run("many"+name, func(t *testing.T) {
			is := is.New(t)
			broker := natstest.Start(t, 1, func(o *server.Options) { o.MaxPayload = of.message })
			a, b := aPair(t, broker)
			a.connect(t, of.many, func(i int) event.Profile { return event.Profile{Type: "user", ID: fmt.Sprint(i)} }, nil)
			b.connect(t, 10, func(i int) event.Profile { return event.Profile{Type: "user", ID: fmt.Sprint(i)} }, nil)
			ids, count := b.everybody(t, "")
			is.Equal(count, float64(of.many+10))
			is.Equal(len(slices.Compact(slices.Clone(ids))), of.many+10)
			is.True(slices.IsSorted(ids))
			own, _ := a.everybody(t, "")
			is.Equal(own, ids)
		})
		t.Run("large"+name, func(t *testing.T) {
			is := is.New(t)
			broker := natstest.Start(t, 1, func(o *server.Options) { o.MaxPayload = of.message })
			a, b := aPair(t, broker)
			me := func(int) event.Profile { return event.Profile{Type: "user", ID: "me"} }
			a.connect(t, of.large, me, largeMetadata())
			b.connect(t, 3, me, largeMetadata())
			ids, count := b.everybody(t, "profile=me")
			is.Equal(count, float64(of.large+3))
			is.Equal(len(ids), of.large+3)
			b.changes(t, "DELETE", "/v1/tenants/acme/connections?profile=me", "")
			is.Equal(len(a.Hub.streams.Connections("acme", nil)), 0)
			is.Equal(len(b.Hub.streams.Connections("acme", nil)), 0)
		})
	}
}

// A hub that joins knows everybody on the others, in messages as small as the server
// takes.
func TestManyPeopleInSmallMessages(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	a, b := aPair(t, natstest.Start(t, 1, func(o *server.Options) { o.MaxPayload = 16 << 10 }))
	a.connect(t, 3001, func(i int) event.Profile { return event.Profile{Type: "user", ID: fmt.Sprint(i)} }, nil)
	b.connect(t, 1, func(int) event.Profile { return event.Profile{Type: "user", ID: "me"} }, nil)
	eventually(t, func() bool { return b.tenants.EnsureAll(t.Context(), "acme") == nil }) // a hub that is slow may not answer in time
	online, _ := b.people.Counts()
	is.Equal(online, 3002)
}

// mute has what a hub says to others not arrive, as if it slept; it is connected to the
// broker.
func mute(proxy *natstest.Proxy) {
	proxy.Rule(func(m *natstest.Message) natstest.Verdict { return natstest.Verdict{Drop: toOthers(m)} })
}

// hang is mute of a hub that hears no question either, and says nothing but that it is there: it is
// not given up.
func hang(proxy *natstest.Proxy) {
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		beat := bytes.HasPrefix(m.Data, []byte("b"))
		question := m.FromServer && strings.Contains(m.Subject, ".peer.") && bytes.HasPrefix(m.Data, []byte("q"))
		return natstest.Verdict{Drop: question || toOthers(m) && !beat}
	})
}

func toOthers(m *natstest.Message) bool {
	return !m.FromServer && (strings.Contains(m.Subject, ".peer.") || strings.HasPrefix(m.Subject, "_INBOX."))
}

// sleepers are two hubs, one of which can be muted.
func sleepers(t *testing.T, configure ...func(*HubConfig, *PresenceConfig)) (a, b *testHub, proxy *natstest.Proxy) {
	t.Helper()
	alone(t, "it makes its own")
	br := theBroker(t)
	proxy = br.Proxies(t)[0]
	prefix := newPrefix()
	var nodes []*testHub
	for _, url := range []string{br.URL(0), proxy.URL()} {
		node := newNode(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(kept history.Limits, _ bool) *broker.Broker {
			return joinBrokerAt(t, url, 1, prefix, kept)
		}, configure...)
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	eventually(t, func() bool {
		return len(nodes[0].peers.Others()) == 1 && len(nodes[1].peers.Others()) == 1
	})
	return nodes[0], nodes[1], proxy
}

// Of a hub that does not answer nothing is known: calls are 503, and what is to be closed
// there is, once it answers.
func TestAHubThatSleeps(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	a, b, proxy := sleepers(t)
	me, one, other := b.open(t, "tenant=acme&profile=me"), b.open(t, "tenant=acme&profile=one"), b.open(t, "tenant=acme&profile=other")
	_, count := a.everybody(t, "")
	is.Equal(count, 3.0)
	hang(proxy)
	path := "/v1/tenants/acme/connections/"
	var calls sync.WaitGroup
	for _, call := range []struct{ method, path, body string }{
		{"GET", "/v1/tenants/acme/connections", ""},
		{"GET", path + other.ConnectionID, ""},
		{"POST", "/v1/connections/" + other.ConnectionID + "/touch", ""},
		{"PUT", "/v1/connections/" + other.ConnectionID + "/token", ""},
		{"PATCH", "/v1/connections/" + other.ConnectionID, `{"types":["a.b"]}`},
		{"DELETE", "/v1/tenants/acme/connections?profile=me", ""},
		{"DELETE", path + one.ConnectionID, ""},
		{"DELETE", "/v1/tenants/beta/connections/" + other.ConnectionID, ""}, // another tenant's
		{"GET", "/v1/tenants/beta/presence", ""},                             // of which nothing is known here
		{"GET", "/v1/presence?tenant=gamma&viewer=me&profile=you", ""},
	} {
		calls.Go(func() {
			status, answer := a.do(t, call.method, call.path, call.body)
			if status != http.StatusServiceUnavailable || answer["code"] != "HubUnavailable" {
				t.Errorf("%s %s: %d %v", call.method, call.path, status, answer)
			}
		})
	}
	calls.Wait()
	is.True(a.Stats().Unanswered > 0)
	proxy.Rule(nil)
	is.Equal(me.until(t, "hub.closing").Type, "hub.closing")
	is.Equal(one.until(t, "hub.closing").Type, "hub.closing")
	eventually(t, func() bool {
		status, answer := a.do(t, "GET", "/v1/tenants/acme/connections", "")
		return status == http.StatusOK && answer["count"] == 1.0 // the other, which nobody closed
	})
	b.publish(t, "acme", "x.y", `{"kind":"tenant"}`, "1")
	is.Equal(string(openEnvelope(t, other.next(t)).Payload), "1")
}

// A hub that was silent for so long that it was given up may sleep: what was to be closed
// is, once it is back.
func TestAHubThatSleepsLong(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes as long as a hub may be silent")
	}
	is := is.New(t)
	a, b, proxy := sleepers(t)
	me, one := b.open(t, "tenant=acme&profile=me"), b.open(t, "tenant=acme&profile=one")
	mute(proxy)
	eventually(t, func() bool { return len(a.peers.Others()) == 0 })
	_, count := a.everybody(t, "")
	is.Equal(count, 0.0)
	status, _ := a.do(t, "DELETE", "/v1/tenants/acme/connections?profile=me", "")
	is.Equal(status, http.StatusNoContent)
	status, _ = a.do(t, "DELETE", "/v1/tenants/acme/connections/"+one.ConnectionID, "")
	is.Equal(status, http.StatusServiceUnavailable) // it is at the broker
	proxy.Rule(nil)
	is.Equal(me.until(t, "hub.closing").Type, "hub.closing")
	is.Equal(one.until(t, "hub.closing").Type, "hub.closing")
}

// More is to be closed at a hub that sleeps than is remembered one by one: nothing of it is
// forgotten.
func TestManyKicksAtAHubThatSleeps(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	a, b, proxy := sleepers(t)
	me, other := b.open(t, meQuery), b.open(t, "tenant=other&profile=me")
	hang(proxy)              // on a slow machine the kicks take longer than a hub may be silent
	var kicks sync.WaitGroup // one more than are remembered one by one
	for n := range 1000 {
		kicks.Go(func() {
			a.Cluster.KickProfile(t.Context(), "acme", event.Profile{Type: "user", ID: fmt.Sprint(n)}, delivery.CloseKicked)
		})
	}
	kicks.Wait()
	status, _ := a.do(t, "DELETE", "/v1/tenants/acme/connections?profile=me", "")
	is.Equal(status, http.StatusServiceUnavailable)
	proxy.Rule(nil)
	is.Equal(me.until(t, "hub.closing").Type, "hub.closing")
	b.publish(t, "other", "x.y", `{"kind":"tenant"}`, "1")
	is.Equal(string(openEnvelope(t, other.next(t)).Payload), "1") // another tenant's stays
}

// A server that is cut off from the others may still say that it leads, though nothing is
// kept: a hub on its side, which hears nobody, tells nobody offline for it.
func TestAHubInTheMinority(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes longer than a hub may be silent")
	}
	is := is.New(t)
	b, a, proxy := sleepers(t, func(_ *HubConfig, p *PresenceConfig) { p.Audience = settings.AudienceTenant })
	b.open(t, "tenant=acme&profile=alice&presence=none")
	seer := a.open(t, "tenant=acme&profile=seer&presence=alice")
	is.Equal(a.status(alice), presence.Online)
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		others := strings.Contains(m.Subject, ".peer.")
		kept := !m.FromServer && m.Reply != "" && !strings.HasPrefix(m.Subject, "$")
		return natstest.Verdict{Drop: others || kept}
	})
	gone := time.Now()
	eventually(t, func() bool {
		if a.status(alice) != presence.Online {
			t.Fatal("told offline after ", time.Since(gone))
		}
		return time.Since(gone) > 25*time.Second
	})
	proxy.Rule(nil)
	eventually(t, func() bool { return a.Ready() == nil })
	is.Equal(a.presences(t, seer), "")
}
