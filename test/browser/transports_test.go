//go:build unix

package browser

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// transports are those that a page may name.
var transports = []string{"sse", "websocket", "poll"}

// by opens a tab for each transport, of a person who is called like it, and is them in order.
func (h *clientHub) by(before ...string) (tabs []*clientTab) {
	h.t.Helper()
	for _, transport := range transports {
		tab := h.live(fmt.Sprintf(`transport: %q, tenant: "t1", profile: %q`, transport, transport), before...)
		tab.becomes(fmt.Sprintf(`is.transport === %q`, transport))
		tabs = append(tabs, tab)
	}
	return tabs
}

// Whatever a stream comes by, it brings the same: events in order, and after each cut what was
// missed, once.
func TestRealtimeTransports(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t, "REALTIME_PRESENCE_AUDIENCE=none")
	h.expected = []string{"net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_EMPTY_RESPONSE", "net::ERR_CONNECTION"} // of what is cut
	tabs := h.by()
	var listed []string
	for _, c := range h.call("GET", "/v1/tenants/t1/connections", "")["connections"].([]any) {
		c := c.(map[string]any)
		is.Equal(c["transport"], c["profile"].(map[string]any)["id"])
		listed = append(listed, c["transport"].(string))
	}
	slices.Sort(listed)
	is.Equal(listed, []string{"poll", "sse", "websocket"})

	var want []any
	for i := range 30 {
		if i%10 == 5 {
			h.wire.Cut()
		}
		h.publish("a.b", i)
		want = append(want, i)
		if i%10 == 9 {
			for _, tab := range tabs {
				tab.told(want...)
			}
		}
	}
	for _, tab := range tabs {
		tab.becomes(`is.state === "live" && (is.resume === "complete" || is.transport === "poll")`) // a browser itself repeats a poll that was cut
	}
}

// Whatever a stream comes by, its client may say the same: what it wants, who types, that somebody
// is there, and what it has handled. It stays away once it was sent away.
func TestRealtimeTransportsSay(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	tabs := h.by(`globalThis.heard = new Set()`)
	h.call("PUT", "/v1/tenants/t1/conversations/talk/members", string(mustJSON(map[string]any{"members": append([]string{"other"}, transports...)})))
	for _, tab := range tabs {
		tab.run(`(c.presence.watch(["other"], ({ status }) => heard.add(status)), c.on("typing.started", ({ payload }) => heard.add(payload.profile.id)), 0)`)
		tab.becomes(`heard.has("offline")`)
		is.Equal(tab.run(`c.touch()`), true)
	}
	other := h.live(`tenant: "t1", profile: "other"`)
	for _, tab := range tabs {
		tab.becomes(`heard.has("online")`)
	}
	eventually(t, func() bool { // a poll may not be open at the first
		is.Equal(other.run(`(c.typing("talk").start())`), true)
		for _, tab := range tabs {
			if tab.run(`heard.has("other")`) != true {
				return false
			}
		}
		return true
	})

	h.due("e1", "1h", transports...)
	for _, tab := range tabs {
		tab.told("e1")
	}
	h.acknowledged("e1", 3)
	for _, tab := range tabs { // who comes back acknowledges, too
		is.Equal(tab.run(`is.reconnects`), 0.0)
	}

	for i, tab := range tabs {
		eventually(t, func() bool { // who is between two polls is told nothing
			h.call("DELETE", "/v1/tenants/t1/connections?profile="+transports[i], "")
			time.Sleep(200 * time.Millisecond) // or the hub refuses so many calls
			return tab.run(`is.state === "displaced" && is.reason === "kicked"`) == true
		})
		tab.run(`c.reconnect()`)
		tab.becomes(`is.state === "live"`)
	}
}

// Who is told that a token has expired, or that one is refused, comes back with the next. Who is told
// that the hub ends is told why.
func TestRealtimeTransportsEnd(t *testing.T) {
	t.Parallel()
	program := hubtest.Start(t, "REALTIME_RETRY=200ms", "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=t1=service-key-0001")
	h := &clientHub{t: t, browser: browser(t), url: program.URL, wire: hubtest.NewWire(t, program.URL)}
	h.expected = []string{"net::ERR_", "401", "WebSocket connection to"} // of a hub that is away, and of a token that has ended
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		life, _ := time.ParseDuration(r.FormValue("life"))
		io.WriteString(w, strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", r.FormValue("sub"), "exp", time.Now().Add(life).Unix()), "Bearer "))
	}))
	t.Cleanup(service.Close)
	const token = `async () => {
		if (is.reason) {
			reasons.push(is.reason);
			globalThis.token = undefined;
		}
		return globalThis.token ??= await (await fetch("%[2]s?sub=%[1]s&life=" + (reasons.includes("expired") ? "1h" : "6s"))).text();
	}` // one that was too old for a slow machine is followed by another that ends
	var tabs []*clientTab
	for _, transport := range transports {
		tab := h.live(fmt.Sprintf(`transport: %[1]q, token: `+token, transport, service.URL), `globalThis.reasons = []`)
		tab.run(`(c.onStatus(({ reason }) => reasons.push(reason)), 0)`)
		tabs = append(tabs, tab)
	}
	good := mustJSON(strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", "refused"), "Bearer "))
	for _, transport := range transports {
		tab := h.open(fmt.Sprintf(`transport: %q, share: false, token: () => globalThis.good ?? "no.such.token"`, transport))
		tab.becomes(`is.state === "waiting" && is.reason === "refused" && is.problem.status === 401 && is.problem.code === "InvalidCredential"`)
		tab.run(fmt.Sprintf(`globalThis.good = %s`, good))
		tab.becomes(`is.state === "live"`)
		tab.close()
	}
	for _, tab := range tabs {
		tab.becomes(`reasons.includes("expired") && is.state === "live"`)
	}
	h.publish("a.b", 1)
	for _, tab := range tabs {
		tab.told(1)
	}
	program.Stop()
	for _, tab := range tabs {
		tab.becomes(`reasons.includes("drain") || is.transport === "poll" && is.state === "waiting"`) // which may be asked again too late to be told
	}
}

// A page sees no heartbeat of a socket, so it asks. Where the hub does not answer, the socket is dead.
// A poll says nothing for longer than a stream.
func TestRealtimeTransportsSilence(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	program := hubtest.Start(t, "REALTIME_RETRY=200ms")
	h := &clientHub{t: t, browser: browser(t), url: program.URL, wire: hubtest.NewWire(t, program.URL)}
	const injected = `(
		((usual) => { globalThis.looks = 0; globalThis.setInterval = (fn, ms) => usual(() => (looks++, fn()), ms / 100); })(setInterval),
		((usual) => { globalThis.late = 0; Date.now = () => usual() + late; })(Date.now),
		globalThis.asked = globalThis.answers = 0,
		globalThis.WebSocket = class extends WebSocket {
			constructor(...given) {
				super(...given);
				this.addEventListener("message", ({ data }) => { if (JSON.parse(data).n) answers++; });
			}
			send(text) {
				asked++;
				super.send(text);
			}
		})`
	socket := h.live(asAlice+`, share: false, transport: "websocket"`, injected)
	poll := h.live(asAlice+`, share: false, transport: "poll"`, injected)
	for range 3 {
		socket.run(`(globalThis.before = asked, late += 23_000)`) // half of three heartbeats
		socket.becomes(`asked > before && answers === asked`)
	}
	is.Equal(socket.run(`states.join()`), "connecting,live")
	poll.run(`(globalThis.before = looks, late += 47_000)`) // more than three, and with what a poll waits less than what it may take
	poll.becomes(`looks > before + 3`)                      // it would be noticed
	is.Equal(poll.run(`states.join()`), "connecting,live")
	program.Signal(syscall.SIGSTOP)
	for _, tab := range []*clientTab{socket, poll} {
		tab.becomes(`(late += 10_000, states.includes("waiting"))`)
	}
	program.Signal(syscall.SIGCONT)
	h.publish("a.b", 1)
	for _, tab := range []*clientTab{socket, poll} {
		tab.becomes(`is.state === "live"`)
		tab.told(1)
	}
}

// impatient has a page give its first stream a tenth of a second to begin; of what it tries next some
// do begin, on a busy machine later.
const impatient = `((usual) => { globalThis.setTimeout = (fn, ms) => usual(fn, ms === 8000 && (globalThis.tries = (globalThis.tries ?? 0) + 1) === 1 ? 100 : ms); })(setTimeout)`

// Where the network holds streams back, or cuts them, a page finds what gets through. The next page
// begins with it, for a day.
func TestRealtimeTransportIsFound(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	h.expected = []string{"WebSocket connection to", "net::ERR_INCOMPLETE_CHUNKED_ENCODING"}
	const auto = asAlice + `, transport: undefined`
	for _, tc := range []struct {
		name    string
		network func(t *testing.T, hub string) string
		want    string
		before  string
		tries   int // of the event stream
	}{
		{"answers are held back", func(t *testing.T, hub string) string { return hinders(t, hub, true) }, "websocket", impatient, 1},
		{"and sockets are refused", func(t *testing.T, hub string) string { return hinders(t, hub, false) }, "poll", impatient, 1},
		{"streams are cut", cuts, "websocket", "0", 3},
	} {
		t.Log(tc.name)
		h.wire = hubtest.NewWire(t, tc.network(t, h.url))
		tried := func() (n int) {
			for _, line := range h.wire.Asked() {
				if strings.HasPrefix(line, "GET /v1/stream") {
					n++
				}
			}
			return n
		}
		live := fmt.Sprintf(`is.state === "live" && is.transport === %q`, tc.want)
		first := h.open(auto, tc.before)
		first.becomes(live)
		is.Equal(tried(), tc.tries)
		sibling := h.live(auto)
		sibling.becomes(live)
		h.publish("a.b", 1)
		first.told(1)
		sibling.told(1)
		first.close() // and the sibling leads
		sibling.becomes(`is.leader && ` + live)
		h.publish("a.b", 2)
		sibling.told(1, 2)
		is.Equal(tried(), tc.tries)
		sibling.close()

		next := h.open(auto, `((now) => { Date.now = () => now() + 86_400_000; })(Date.now), `+tc.before) // tomorrow
		next.becomes(live)
		is.Equal(tried(), 2*tc.tries)
		next.close()
	}
}

// A page of another origin that is listed gets the same by each transport.
func TestRealtimeTransportsOfAnotherOrigin(t *testing.T) {
	is := is.New(t)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
	}))
	t.Cleanup(page.Close)
	h := newClientHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=t1=service-key-0001", "REALTIME_CORS_ORIGINS="+page.URL)
	here, _ := tab(t, h.browser, page.URL)
	c := &clientTab{h, here, nil}
	c.run(`(globalThis.got = [], globalThis.clients = {}, 0)`)
	for _, transport := range transports {
		token, _ := json.Marshal(strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", transport), "Bearer "))
		options := fmt.Sprintf(`url: %q, token: () => %s, transport: %q`, h.url, token, transport)
		begin := func(more string) {
			c.run(fmt.Sprintf(`(async () => {
				const { connect } = await import(%q);
				const client = clients.%s = connect({ %s%s });
				client.on("a.b", ({ payload }) => got.push(client.status.transport + payload));
			})()`, h.url+"/realtime.js", transport, options, more))
			c.becomes(fmt.Sprintf(`clients.%s.status.state === "live"`, transport))
		}
		begin("")
		h.publish("a.b", 1)
		c.becomes(fmt.Sprintf(`got.includes("%s1")`, transport))
		cursor := c.run(fmt.Sprintf(`(clients.%[1]s.close(), clients.%[1]s.cursor)`, transport))
		begin(fmt.Sprintf(`, cursor: %q`, cursor))
		h.publish("a.b", 2)
		c.becomes(fmt.Sprintf(`got.includes("%s2")`, transport))
		is.Equal(c.run(fmt.Sprintf(`(clients.%[1]s.close(), clients.%[1]s.status.reason)`, transport)), "closed")
	}
	is.Equal(c.run(`got.join(" ")`), "sse1 sse2 websocket1 websocket2 poll1 poll2")
}
