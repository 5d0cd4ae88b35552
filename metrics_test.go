package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/metrics"
	"realtimehub/internal/serve"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// scraped is an answer of GET /metrics: values by name and label, as written there.
type scraped map[string]float64

func scrape(t testing.TB, handler http.Handler, headers ...string) scraped {
	t.Helper()
	w := ask(handler, "GET", "/metrics", "", headers...)
	if w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	values := scraped{}
	for line := range strings.Lines(w.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			values[name] = n
		}
	}
	return values
}

// varies is of what no test can foresee, how long something took or how large it is.
var varies = regexp.MustCompile(`^(go|process|promhttp)_|_seconds_(sum|bucket)|_age_seconds|_(queue|history|history_memory|quota|outbox)_bytes|replay_events_bucket`)

// moved is what is different now, but for what varies. Connections are those of all doors.
func (s scraped) moved(now scraped) map[string]float64 {
	moved, connections := map[string]float64{}, 0.0
	for name, value := range now {
		switch by := value - s[name]; {
		case by == 0 || varies.MatchString(name):
		case strings.HasPrefix(name, "realtime_connections{"):
			connections += by
		default:
			moved[strings.TrimPrefix(name, "realtime_")] = by
		}
	}
	if connections != 0 {
		moved["connections"] = connections
	}
	return moved
}

// moves says by how much what happens moves the metrics: those named, and no other. Each stream
// is a connection.
func moves(t *testing.T, handler http.Handler, want map[string]float64, happens func(), headers ...string) {
	t.Helper()
	if n, ok := want["streams_open"]; ok {
		want = maps.Clone(want)
		want["connections"] = n
	}
	before := scrape(t, handler, headers...)
	happens()
	var got map[string]float64
	if !testkit.Comes(func() bool {
		got = before.moved(scrape(t, handler, headers...))
		return maps.Equal(got, want)
	}) {
		t.Errorf("moved %v\nwant  %v", got, want)
	}
}

func TestMetricsMove(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTestHub(t, func(hub *HubConfig, presence *PresenceConfig) {
		hub.Most = delivery.Limits{All: 5, Profile: 3}
		presence.Grace = 0
	})
	handler := h.API.Handler()
	var a, b *testClient
	moves(t, handler, map[string]float64{"streams_open": 2, `connects_total{resume="fresh"}`: 2, `presence_profiles{status="online"}`: 2}, func() {
		a, b = h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=b")
	})
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members", `{"members":["a"]}`)
	h.changes(t, "PUT", "/v1/tenants/acme/groups/g/members", `{"members":["a","b"]}`)
	for target, reached := range map[string][]*testClient{
		`{"kind":"profile","profiles":["a"]}`:                           {a},
		`{"kind":"profiles","profiles":["a","b","nobody"]}`:             {a, b},
		`{"kind":"conversation","conversationId":"c"}`:                  {a},
		`{"kind":"group","groupId":"g"}`:                                {a, b},
		`{"kind":"tenant"}`:                                             {a, b},
		`{"kind":"connection","connectionId":"` + b.ConnectionID + `"}`: {b},
	} {
		var kind struct{ Kind string }
		is.NoErr(json.Unmarshal([]byte(target), &kind))
		n := float64(len(reached))
		want := map[string]float64{
			`events_accepted_total{target="` + kind.Kind + `"}`: 1, "deliveries_total": n, "publish_to_write_seconds_count": n, "history_events": 1,
		}
		if kind.Kind == "connection" {
			delete(want, "history_events")
		}
		moves(t, handler, want, func() {
			h.publish(t, "acme", "a.b", target, "1")
			for _, c := range reached {
				c.until(t, "a.b")
			}
		})
	}
	published := func(stored, events, writes float64) map[string]float64 {
		want := map[string]float64{
			`events_accepted_total{target="tenant"}`: events, "deliveries_total": 2 * events, "publish_to_write_seconds_count": writes, "history_events": stored,
		}
		maps.DeleteFunc(want, func(_ string, n float64) bool { return n == 0 })
		return want
	}
	e := func(more string) string {
		return `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}` + more + `}`
	}
	want := published(1, 1, 2)
	want["events_duplicate_total"], want["dedupe_ids"] = 2, 1
	moves(t, handler, want, func() {
		for range 3 {
			h.post(t, "/v1/events", e(`,"id":"x"`))
		}
	})
	moves(t, handler, published(0, 1, 2), func() { h.post(t, "/v1/events", e(`,"ephemeral":true`)) })
	// A batch is one write a stream, timed once.
	moves(t, handler, published(3, 3, 2), func() {
		h.post(t, "/v1/events/batch", `{"events":[`+e("")+`,`+e("")+`,`+e("")+`]}`)
	})
	moves(t, handler, map[string]float64{`events_refused_total{code="TargetRequired"}`: 1, `events_refused_total{code="ValidationFailed"}`: 1, `events_refused_total{code="UnsupportedMediaType"}`: 1}, func() {
		h.post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1}`)
		h.post(t, "/v1/events/batch", `{"events":[{},{}]}`)
		ask(handler, "POST", "/v1/events", "", "Content-Type", "text/plain")
	})
	want = published(1, 1, 2)
	want[`events_refused_total{code="MalformedJson"}`], want[`events_refused_total{code="BodyTooLarge"}`] = 1, 1
	moves(t, handler, want, func() {
		res, err := h.client.Post(h.URL+"/v1/events", "application/x-ndjson", strings.NewReader("{\n"+e("")+"\n"+strings.Repeat("x", 2<<20)+"\n"))
		is.NoErr(err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	})

	cursor := b.Cursor
	moves(t, handler, map[string]float64{"streams_open": -1, `closes_total{reason="client"}`: 1, `presence_profiles{status="online"}`: -1}, b.close)
	online := func(n float64, more map[string]float64) map[string]float64 {
		want := map[string]float64{"streams_open": n, `presence_profiles{status="online"}`: n}
		maps.Copy(want, more)
		return want
	}
	// Of the history b is a target of 3, 1, and 1+3+1: what is replayed is not timed.
	const missed = 2 + 1 + 1 + 3 + 1
	moves(t, handler, online(1, map[string]float64{
		`connects_total{resume="complete"}`: 1, "replay_events_count": 1, "replay_events_sum": missed, "deliveries_total": missed,
	}), func() { b = h.back(t, cursor, "tenant=acme&profile=b") })
	moves(t, handler, map[string]float64{
		"streams_open": 1, `connects_total{resume="partial"}`: 1, `gaps_total{reason="unknown"}`: 1, "replay_events_count": 1,
	}, func() { h.back(t, "nonsense", "tenant=acme&profile=b") })
	moves(t, handler, map[string]float64{"streams_open": 1, `connects_total{resume="complete"}`: 1, "replay_events_count": 1}, func() {
		start, _ := h.parse("acme", a.Ready.ID)
		h.back(t, history.Cursor{Epoch: start.Epoch, Seq: 9 + 1}.String(), "tenant=acme&profile=b")
	})
	moves(t, handler, map[string]float64{`connects_total{resume="fresh"}`: 1, `closes_total{reason="replaced"}`: 1}, func() {
		h.open(t, "tenant=acme&profile=b")
	})
	moves(t, handler, online(1, map[string]float64{`connects_total{resume="fresh"}`: 1}), func() { h.open(t, "tenant=other&profile=c") })
	moves(t, handler, map[string]float64{`streams_refused_total{reason="capacity"}`: 1}, func() {
		is.True(h.turnedAway(t, "tenant=acme&profile=d")) // which reads no real stream to its end
	})
	moves(t, handler, online(-1, map[string]float64{`closes_total{reason="kicked"}`: 1}), func() {
		h.changes(t, "DELETE", "/v1/tenants/other/connections?profile=c", "")
	})
	moves(t, handler, map[string]float64{"streams_open": -1, `closes_total{reason="expired"}`: 1}, func() {
		h.streams.Prolong(h.streams.Connections("acme", &event.Profile{Type: "user", ID: "b"})[0], time.Now())
	})
	moves(t, handler, map[string]float64{`auth_failures_total{reason="ForbiddenHost"}`: 1, `auth_failures_total{reason="CrossSite"}`: 1}, func() {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Host = "evil.example.com"
		handler.ServeHTTP(httptest.NewRecorder(), r)
		ask(handler, "GET", "/v1/presence", "", "Sec-Fetch-Site", "cross-site")
	})
	open := float64(h.Stats().Streams)
	moves(t, handler, map[string]float64{
		"streams_open": -open, "ready": -1, `closes_total{reason="drain"}`: open, `streams_refused_total{reason="drain"}`: 1,
	}, func() {
		h.streams.Drain(t.Context(), 0)
		_, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "late"}})
		is.Equal(err, delivery.ErrDraining)
	})
}

// A poll delivers what is in its answer. What its limit leaves out is neither delivered nor
// dropped: the next poll has it.
func TestMetricsOfAFullPoll(t *testing.T) {
	alone(t, "each hub counts for itself")
	h := newTestHub(t)
	from := h.here(t, meQuery)
	for range 10 {
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	}
	delivered := func() float64 { return scrape(t, h.API.Handler())["realtime_deliveries_total"] }
	is := is.New(t)
	before := delivered()
	for n := range 10 {
		p := h.poll(t, meQuery+"&limit=1&cursor="+from)
		is.Equal(len(p.Events), 1)
		is.Equal(p.More, n < 9)
		from = p.Cursor
		eventually(t, func() bool { return delivered() == before+float64(n+1) })
	}
	for name, n := range scrape(t, h.API.Handler()) {
		is.True(n == 0 || !strings.HasPrefix(name, "realtime_drops_total")) // nothing is lost
	}
}

func TestMetricsOfGapsAndSlowness(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTestHub(t, keeping(3), func(hub *HubConfig, _ *PresenceConfig) { hub.StreamBuffer = 8 << 10 })
	handler := h.API.Handler()
	var cursor string
	for range 5 {
		if c := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")["cursor"].(string); cursor == "" {
			cursor = c
		}
	}
	moves(t, handler, map[string]float64{
		"streams_open": 1, `presence_profiles{status="online"}`: 1, `connects_total{resume="partial"}`: 1,
		`gaps_total{reason="expired"}`: 1, "replay_events_count": 1, "replay_events_sum": 3, "deliveries_total": 3,
	}, func() { h.back(t, cursor, "tenant=acme&profile=late") })

	// Nobody reads this one until all is over.
	var slow *delivery.Connection
	moves(t, handler, map[string]float64{"streams_open": 1, `presence_profiles{status="online"}`: 1, `connects_total{resume="fresh"}`: 1}, func() {
		var err error
		slow, err = h.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "other", Profile: event.Profile{Type: "user", ID: "slow"}})
		is.NoErr(err)
	})
	padding := strings.Repeat("x", 1<<10)
	ephemeral := func(n int) {
		for range n {
			h.post(t, "/v1/tenants/other/events", `{"type":"a.b","payload":"`+padding+`","ephemeral":true}`)
		}
	}
	// 8 KiB have room for 6 of these beside hub.ready; the 7th sheds all.
	moves(t, handler, map[string]float64{`events_accepted_total{target="tenant"}`: 7, `drops_total{reason="slow"}`: 7, `gaps_total{reason="slow"}`: 1}, func() { ephemeral(7) })
	moves(t, handler, map[string]float64{`events_accepted_total{target="tenant"}`: 8, `drops_total{reason="cut"}`: 7, `drops_total{reason="closed"}`: 1, "history_events": 3}, func() {
		for range 8 {
			h.publish(t, "other", "a.b", `{"kind":"tenant"}`, `"`+padding+`"`)
		}
	})
	moves(t, handler, map[string]float64{"streams_open": -1, `closes_total{reason="slow"}`: 1}, func() {
		h.streams.Engine().Serve(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), slow.Stream)
	})
	is.Equal(scrape(t, handler)["realtime_queue_bytes"], 0.0)

	moves(t, handler, map[string]float64{`gaps_total{reason="lost"}`: 1, `closes_total{reason="drain"}`: 1, "streams_open": -1}, func() {
		h.dispatcher.Lost("acme", history.Cursor{Epoch: history.Epoch{}, Seq: 9})
	})
	for i := range 1_000 + 1 {
		is.NoErr(untilConfirmed(func() error {
			return h.members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "all"}, event.Profile{Type: "user", ID: strconv.Itoa(i)})
		}))
	}
	moves(t, handler, map[string]float64{`drops_total{reason="room"}`: 1}, func() {
		h.post(t, "/v1/conversations/all/typing?tenant=acme&profile=1", `{"state":"started"}`)
	})
}

// Whoever sends what makes no sense is cut, where the hub has the socket.
func TestMetricsOfNoise(t *testing.T) {
	alone(t, "each hub counts for itself")
	if runtime.GOOS != "linux" {
		hubtest.Lacks(t, "elsewhere than on Linux the hub does not read what comes in")
	}
	is := is.New(t)
	h := newTestHub(t, func(_ *HubConfig, presence *PresenceConfig) {
		presence.IdleTimeout, presence.Grace = 20*time.Millisecond, 0
	})
	handler := h.API.Handler()
	moves(t, handler, map[string]float64{"streams_open": 1, `connects_total{resume="fresh"}`: 1, `presence_profiles{status="away"}`: 1}, func() {
		h.open(t, "tenant=acme&profile=idle")
	})
	conn, err := net.Dial("tcp", h.Server.Listener.Addr().String())
	is.NoErr(err)
	defer conn.Close()
	moves(t, handler, map[string]float64{
		`connects_total{resume="fresh"}`: 1, `closes_total{reason="noisy"}`: 1,
	}, func() {
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=noisy HTTP/1.1\r\nHost: localhost\r\n\r\n")
		_, err := sse.NewReader(conn).Next()
		is.NoErr(err)
		conn.Write(bytes.Repeat([]byte("x"), 1<<20)) // it may be cut meanwhile
	})
}

func TestMetricsOfRefusals(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001", "*=master-key-00001"}}),
		access.RatesConfig{PublishRate: 1e-6, ClientRate: 1e-6})
	handler := h.API.Handler()
	master := []string{"X-API-Key", "master-key-00001"}
	is.Equal(ask(handler, "GET", "/metrics", "").Code, http.StatusUnauthorized)
	is.Equal(ask(handler, "GET", "/metrics", "", "X-API-Key", "service-key-0001").Code, http.StatusForbidden)
	is.Equal(ask(handler, "GET", "/debug/pprof/", "", "X-API-Key", "service-key-0001").Code, http.StatusForbidden)
	is.Equal(ask(handler, "GET", "/metrics", "", "Authorization", "Bearer master-key-00001").Code, http.StatusOK) // as Prometheus sends it
	fails := func(reason string, headers ...string) {
		t.Helper()
		moves(t, handler, map[string]float64{`auth_failures_total{reason="` + reason + `"}`: 1}, func() {
			ask(handler, "GET", "/v1/presence", "", headers...)
		}, master...)
	}
	fails("CredentialRequired")
	fails("InvalidCredential", "Authorization", "Bearer x")
	fails("CredentialExpired", "Authorization", bearer(t, "exp", 1))
	fails("ScopeRequired", "X-API-Key", "service-key-0001")
	fails("CrossSite", "Cookie", tokenCookie+"="+strings.TrimPrefix(bearer(t), "Bearer "), "Sec-Fetch-Site", "cross-site")
	event := `{"type":"a.b","payload":1}`
	moves(t, handler, map[string]float64{`auth_failures_total{reason="TenantForbidden"}`: 2, `events_refused_total{code="TenantForbidden"}`: 2}, func() {
		ask(handler, "POST", "/v1/tenants/other/events", event, "X-API-Key", "service-key-0001")
		ask(handler, "POST", "/v1/events", eventJSON("other", "a.b", `{"kind":"tenant"}`, "1"), "X-API-Key", "service-key-0001")
	}, master...)
	moves(t, handler, map[string]float64{`rate_limited_total{limit="publish"}`: 1, `events_refused_total{code="RateLimited"}`: 1, `events_accepted_total{target="tenant"}`: 1, "history_events": 1}, func() {
		ask(handler, "POST", "/v1/tenants/acme/events", event, "X-API-Key", "service-key-0001")
		ask(handler, "POST", "/v1/tenants/acme/events", event, "X-API-Key", "service-key-0001")
	}, master...)
	moves(t, handler, map[string]float64{`rate_limited_total{limit="client"}`: 1}, func() {
		ask(handler, "GET", "/v1/presence", "", "Authorization", bearer(t))
		ask(handler, "GET", "/v1/presence", "", "Authorization", bearer(t))
	}, master...)
	moves(t, handler, map[string]float64{`rate_limited_total{limit="probe"}`: 1}, func() {
		for range maxOwnProbes + 1 {
			h.openProbe(t, "every=0", "X-API-Key", "service-key-0001")
		}
	}, master...)
}

// Who owes an acknowledgement is counted until the deadline, and what came of them after it.
func TestMetricsOfDuties(t *testing.T) {
	t.Parallel()
	alone(t, "only the hub that judges counts")
	h := newTestHub(t)
	handler := h.API.Handler()
	a := h.open(t, "tenant=acme&profile=a&ack=true")
	publish := func(deadline, profiles string) func() {
		return func() {
			h.accepted(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"deadline":"`+deadline+`","target":{"kind":"profiles","profiles":[`+profiles+`]}}`)
		}
	}
	accepted := `events_accepted_total{target="profiles"}`
	moves(t, handler, map[string]float64{
		accepted: 1, "history_events": 1, "deliveries_total": 1, "publish_to_write_seconds_count": 1, "duties_open": 1, "duties_owed": 2,
	}, publish("1h", `"a","nobody"`))
	moves(t, handler, map[string]float64{"duties_owed": -1}, func() { h.ack(t, a.ConnectionID, a.until(t, "a.b").ID) })
	moves(t, handler, map[string]float64{
		accepted: 1, "history_events": 1, `duties_recipients_total{state="reported"}`: 2, "outbox_items": 1, "outbox_untaken_items": 1,
	}, publish("1s", `"nobody","nobody-else"`))
}

// An id that is forgotten before its window is over is counted.
func TestMetricsOfLostIDs(t *testing.T) {
	alone(t, "a broker's servers remember all of the window")
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.IDs = 3
		hub.Log = history.NewMemory(limits)
	})
	publish := func(ids ...string) func() {
		return func() {
			for _, id := range ids {
				h.post(t, "/v1/events", `{"id":"`+id+`","tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
			}
		}
	}
	accepted := `events_accepted_total{target="tenant"}`
	moves(t, h.API.Handler(), map[string]float64{accepted: 3, "history_events": 3, "dedupe_ids": 3}, publish("a", "b", "c"))
	moves(t, h.API.Handler(), map[string]float64{accepted: 2, "history_events": 2, "dedupe_ids_lost_total": 2}, publish("d", "e"))
	moves(t, h.API.Handler(), map[string]float64{
		accepted: 1, "history_events": 1, "dedupe_ids_lost_total": 1, "events_duplicate_total": 1,
	}, publish("a", "e")) // a was forgotten, and costs c
}

// closedWords is every label of ours and the words that it may have.
var closedWords = map[string]string{
	"realtime_connections":             `transport: poll signalr sse websocket`,
	"realtime_connects_total":          `resume: complete fresh partial`,
	"realtime_closes_total":            `reason: capacity client drain expired kicked noisy protocol replaced slow unacked unavailable vanished`,
	"realtime_streams_refused_total":   `reason: capacity drain pending protocol refused unavailable vanished`,
	"realtime_events_accepted_total":   `target: connection conversation group profile profiles tenant`,
	"realtime_drops_total":             `reason: behind broker budget closed cut gone room slow unreadable untold`,
	"realtime_history_cut_total":       `bound: all tenant`,
	"realtime_broker_lost_total":       `kept: epoch history membership`,
	"realtime_broker_faults_total":     `fault: history membership moved other refused unread`,
	"realtime_gaps_total":              `reason: expired lost membership slow unknown`,
	"realtime_auth_failures_total":     `reason: CertificateRequired CredentialExpired CredentialNotYetValid CredentialRequired CrossSite ForbiddenHost InvalidCredential KeysUnavailable RateLimited ScopeRequired TenantForbidden UnlistedOrigin`,
	"realtime_rate_limited_total":      `limit: admin client memberships probe publish`,
	"realtime_quota_bytes":             `quota: answers bodies ids people person seen state`,
	"realtime_quota_limit_bytes":       `quota: answers bodies ids people person seen state`,
	"realtime_quota_refused_total":     `quota: answers bodies ids people person seen state`,
	"realtime_unproven_cut_total":      `bound: address all`,
	"realtime_duties_recipients_total": `state: acknowledged reported`,
	"realtime_duties_faults_total":     `fault: lost unread`,
	"realtime_webhook_answers_total":   `answer: 2xx 3xx 4xx 5xx error timeout`,
	"realtime_webhook_items_total":     `fate: lost taken`,
	"realtime_presence_profiles":       `status: away online`,
	"realtime_server_errors_total":     `kind: accept client other panic tls`,
}

// Whatever users name, no label grows: all words are there from the start.
func TestMetricsHaveAClosedSetOfLabels(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	handler := h.API.Handler()
	first := scrape(t, handler)
	for _, odd := range []string{"odd-one", "odd~@two", "odd.3"} {
		h.open(t, "tenant="+odd+"&profile=oddkind:"+odd+"&meta.odd="+odd)
		h.publish(t, odd, "odd."+strings.ReplaceAll(odd, "~@", "-"), `{"kind":"conversation","conversationId":"odd"}`, `"odd"`)
		h.post(t, "/v1/events", `{"tenantId":"`+odd+`","type":"odd","payload":1,"target":{"kind":"odd"}}`)
		h.post(t, "/v1/events", `{"odd":"`+odd+`"}`)
		h.do(t, "POST", "/v1/"+odd, "")
		h.back(t, odd, "tenant="+odd+"&profile=odd")
		ask(handler, "GET", "/v1/presence", "", "Origin", "https://odd.example.com", "Sec-Fetch-Site", "odd")
		ask(handler, "ODD", "/v1/events", "{}", "Authorization", "Odd odd")
	}
	last := scrape(t, handler)
	ours := func(name string, _ float64) bool { return !strings.HasPrefix(name, "realtime_") }
	maps.DeleteFunc(first, ours)
	maps.DeleteFunc(last, ours)
	is.Equal(slices.Sorted(maps.Keys(last)), slices.Sorted(maps.Keys(first)))

	words := map[string]string{}
	series := regexp.MustCompile(`^(\w+)\{(\w+)="([^"]*)"\}$`)
	for _, name := range slices.Sorted(maps.Keys(last)) {
		is.True(!strings.Contains(name, "odd"))
		if m := series.FindStringSubmatch(name); m != nil && m[2] != "le" && m[1] != "realtime_events_refused_total" {
			if words[m[1]] == "" {
				words[m[1]] = m[2] + ":"
			}
			words[m[1]] += " " + m[3]
		} else if m == nil && strings.Contains(name, "{") {
			is.True(strings.HasPrefix(name, "realtime_build_info{")) // it alone has several
		}
	}
	is.Equal(words, closedWords)
	for _, code := range allCodes {
		_, there := last[`realtime_events_refused_total{code="`+string(code)+`"}`]
		is.True(there) // the contract's codes are all of the set
	}
}

// Only so many tenants as asked for are shown by name.
func TestMetricsOfTenants(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTestHub(t)
	for tenant, streams := range map[string]int{"small": 1, "large": 3, "medium": 2} {
		for range streams {
			h.open(t, "tenant="+tenant+"&profile=a")
		}
		h.publish(t, tenant, "a.b", `{"kind":"tenant"}`, "1")
	}
	h.publish(t, "large", "a.b", `{"kind":"tenant"}`, "1")
	h.publish(t, "nobody", "a.b", `{"kind":"tenant"}`, "1")
	metrics := metricsOf(t, h.Hub)
	tenants := scrape(t, metrics)
	maps.DeleteFunc(tenants, func(name string, _ float64) bool { return !strings.Contains(name, "tenant=") })
	is.Equal(tenants, scraped{
		`realtime_tenant_streams_open{tenant="large"}`: 3, `realtime_tenant_events_accepted_total{tenant="large"}`: 2,
		`realtime_tenant_streams_open{tenant="medium"}`: 2, `realtime_tenant_events_accepted_total{tenant="medium"}`: 1,
	})
}

func TestMetricsAreWellFormed(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	w := ask(metricsOf(t, h.Hub), "GET", "/metrics", "")
	is.True(strings.Contains(w.Body.String(), "\ngo_goroutines "))
	is.True(strings.Contains(w.Body.String(), "\nrealtime_build_info{"))
	problems, err := promlint.New(w.Body).Lint()
	is.NoErr(err)
	is.Equal(problems, nil)
}

// What is measured does not know how it is shown.
func TestOnlyMetricsKnowPrometheus(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == filepath.Join("internal", "metrics") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			if strings.Contains(spec.Path.Value, "prometheus") {
				t.Errorf("%s imports %s", path, spec.Path.Value)
			}
		}
		return nil
	})
	is.New(t).NoErr(err)
}

// A profile lasts as long as it was asked for, whatever time requests have.
func TestProfiles(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	server := serve.NewServer(h.API.Handler(), nil, h.API.ErrorLog())
	server.ReadTimeout = 200 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	go server.Serve(listener)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func(path string, least time.Duration) (status int, body string) {
		t.Helper()
		eventually(t, func() bool { // a machine that is slow may use up the time that a request has before it is read
			start := time.Now()
			res, err := client.Get("http://" + listener.Addr().String() + "/debug/pprof/" + path)
			if err != nil {
				return false
			}
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			status, body = res.StatusCode, string(text)
			return err == nil && time.Since(start) >= least
		})
		return status, body
	}
	for _, path := range []string{"profile?seconds=1", "trace?seconds=1"} {
		status, body := get(path, time.Second)
		is.Equal(status, http.StatusOK)
		is.True(strings.HasPrefix(body, "\x1f\x8b") || strings.HasPrefix(body, "go 1.")) // a profile is gzip, a trace says what it is
	}
	for path, word := range map[string]string{
		"": "goroutine", "cmdline": "test", "symbol": "num_symbols", "heap?debug=1": "heap profile", "goroutine?debug=1": "goroutine profile",
	} {
		status, body := get(path, 0)
		is.Equal(status, http.StatusOK)
		is.True(strings.Contains(body, word))
	}
	status, _ := get("nothing", 0)
	is.Equal(status, http.StatusNotFound)
}

// The dashboard asks for nothing that is not there, and leaves out nothing that is.
func TestDashboard(t *testing.T) {
	is := is.New(t)
	data, err := os.ReadFile("deploy/grafana.json")
	is.NoErr(err)
	type source struct{ UID string }
	type target struct {
		Expr       string
		RefID      string
		Datasource source
	}
	var dashboard struct {
		Title, UID    string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			Description string
			GridPos     struct{ H, W, X, Y int }
			Datasource  source
			Targets     []target
		}
	}
	is.NoErr(json.Unmarshal(data, &dashboard))
	is.True(dashboard.Title != "" && dashboard.UID != "" && dashboard.SchemaVersion >= 39)
	is.Equal(dashboard.Templating.List[0], struct{ Name, Type string }{"DS_PROMETHEUS", "datasource"})

	h := newTestHub(t)
	h.open(t, "tenant=acme&profile=a")
	there := map[string]bool{}     // names, and whether a panel shows them
	for _, node := range h.nodes { // whichever has the stream
		metrics := metricsOf(t, node.Hub)
		for series := range scrape(t, metrics) {
			name, _, _ := strings.Cut(series, "{")
			there[name] = false
		}
	}
	names := regexp.MustCompile(`\b(?:realtime|go|process)_\w+`)
	ids, taken := map[int]bool{}, map[[2]int]bool{}
	var rows []string
	for _, p := range dashboard.Panels {
		is.True(p.ID > 0 && !ids[p.ID])
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				is.True(!taken[at] && at[0] < 24) // no two on one place
				taken[at] = true
			}
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		is.True(p.Description != "" && len(p.Targets) > 0)
		is.Equal(p.Datasource.UID, "${DS_PROMETHEUS}")
		for _, target := range p.Targets {
			is.Equal(target.Datasource.UID, "${DS_PROMETHEUS}")
			is.Equal(strings.Count(target.Expr, "("), strings.Count(target.Expr, ")"))
			is.Equal(strings.Count(target.Expr, "{"), strings.Count(target.Expr, `{job=~"$job",instance=~"$instance"`)) // the hubs that were chosen
			for _, name := range names.FindAllString(target.Expr, -1) {
				if _, ok := there[name]; !ok && (runtime.GOOS == "linux" || !strings.HasPrefix(name, "process_")) {
					t.Errorf("%s: there is no %s", p.Title, name)
				}
				there[name] = true
				counts := regexp.MustCompile(`_(total|bucket|sum|count)$`).MatchString(name)
				is.Equal(counts, regexp.MustCompile(`(?:rate|increase)\(`+name).MatchString(target.Expr)) // a counter by its rate, and nothing else
			}
		}
	}
	is.Equal(rows, []string{"Overview", "Streams", "Events", "Latency", "Trouble", "Presence", "Go process"})
	for name, shown := range there {
		whole := regexp.MustCompile(`_(sum|count)$`).ReplaceAllString(name, "_bucket")
		if strings.HasPrefix(name, "realtime_") && !shown && !there[whole] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// metricsOf shows a hub, and the two tenants with most streams.
func metricsOf(t testing.TB, hub *Hub) *metrics.Metrics {
	logger := slog.New(slog.DiscardHandler)
	return newMetrics(hub, openDoor(t), access.NewRates(access.RatesConfig{}), serve.NewErrorLog(logger), APIConfig{MetricsTenants: 2, Logger: logger})
}
