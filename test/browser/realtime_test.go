package browser

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"realtimehub/internal/testkit"

	"github.com/chromedp/cdproto/network"
	lifecycle "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"
)

// Two tabs are one stream, and yet each is told just what it asked for.
func TestRealtimeTabs(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	one := h.live(asAlice + `, types: ["a.b"]`)
	two := h.live(asAlice + `, types: ["a.c"]`)
	one.becomes(adjusted(1))
	is.Equal(len(h.connections()), 1)
	is.Equal(one.run(`is.connectionId`), two.run(`is.connectionId`))
	is.Equal(one.run(`[is.shared, is.leader]`), []any{true, true})
	is.Equal(two.run(`[is.shared, is.leader]`), []any{true, false})

	for i, kind := range []string{"a.b", "a.c", "a.d", "a.b", "a.c"} {
		h.publish(kind, i)
	}
	one.told(0, 3)
	two.told(1, 4)
	h.publish("a.b", "echo", fmt.Sprintf(`"correlationId":%q`, one.run(`c.id`)))
	h.publish("a.b", "of another", fmt.Sprintf(`"correlationId":%q`, two.run(`c.id`)))
	one.told(0, 3, "of another")

	// A third that wants all widens the stream; when it has gone, that is narrow again.
	three := h.live(asAlice)
	is.Equal(len(h.connections()), 1)
	h.publish("a.d", "all")
	h.publish("a.b", 5)
	three.told("all", 5)
	three.close()
	one.becomes(adjusted(3))
	one.told(0, 3, "of another", 5)
	two.told(1, 4)

	h.publish("a.d", "nobody's")
	h.publish("a.b", 6)
	one.told(0, 3, "of another", 5, 6)

	// Another person in this browser is another stream.
	h.live(`tenant: "t1", profile: "bob"`)
	is.Equal(len(h.connections()), 2)
}

// adjusted says that a leader has changed its stream's filter n times.
func adjusted(n int) string {
	return fmt.Sprintf(`performance.getEntriesByType("resource").filter((e) => e.name.includes("/v1/connections/")).length === %d`, n)
}

// Whoever leads may close, be killed or be put aside while events pour in: the
// others go on, in order, without a loss or a repeat.
func TestRealtimeLeaderLeaves(t *testing.T) {
	ways := []func(c *clientTab){
		func(c *clientTab) { c.close() },
		func(c *clientTab) { c.run(`c.close()`) },
		func(c *clientTab) { do(t, c.page, chromedp.Navigate(c.h.wire.URL+"/readyz")) },
		func(c *clientTab) { do(t, c.page, chromedp.Reload()) },
	}
	h := newClientHub(t)
	var tabs []*clientTab
	for range len(ways) + 2 {
		tabs = append(tabs, h.live(asAlice))
	}
	var sent atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		pace := time.NewTicker(3 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
				h.publish("a.b", sent.Add(1))
			}
		}
	}()
	for _, leave := range ways {
		at := slices.IndexFunc(tabs, func(c *clientTab) bool { return c.run(`is.leader`) == true })
		tabs[at].becomes(`got.length > 10`)
		before := h.connections()
		leave(tabs[at])
		tabs = slices.Delete(tabs, at, at+1)
		now := sent.Load()
		for _, tab := range tabs {
			tab.becomes(fmt.Sprintf(`got.at(-1) > %d`, now+20))
		}
		wasThere := func(id string) bool { return slices.Contains(before, id) }
		if n := len(slices.DeleteFunc(h.connections(), wasThere)); n != 1 {
			t.Fatalf("%d new streams", n)
		}
		testkit.Eventually(t, func() bool { return !slices.ContainsFunc(h.connections(), wasThere) }) // the hub may hear later of who left
	}
	close(stop)
	<-done
	for _, tab := range tabs {
		tab.becomes(fmt.Sprintf(`got.at(-1) === %d`, sent.Load()))
		if bad := tab.run(`got.findIndex((n, i) => n !== i + 1)`); bad != float64(-1) {
			t.Fatalf("a loss or a repeat at %v: %v", bad, tab.run(`got`))
		}
	}
}

// Seven tabs are more than the connections that a browser opens to a host on
// HTTP/1.1: with a stream each the seventh hangs, with one for all none does.
func TestRealtimeSevenTabs(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	var tabs []*clientTab
	for range 7 {
		tabs = append(tabs, h.live(asAlice))
	}
	is.Equal(len(h.connections()), 1)
	for _, tab := range tabs[1:] {
		tab.close()
	}
	for range 5 {
		h.live(asAlice + `, share: false`)
	}
	is.Equal(len(h.connections()), 6)
	is.Equal(tabs[0].run(`Promise.race([globalThis.answer = fetch("/healthz").then(() => "answered"), new Promise((r) => setTimeout(r, 1000, "hangs"))])`), "hangs")
	h.call("DELETE", "/v1/tenants/t1/connections/"+h.connections()[1], "")
	is.Equal(tabs[0].run(`answer`), "answered")
}

// Without Web Locks, as on plain http, each tab has a stream.
func TestRealtimeWithoutLocks(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	for range 2 {
		tab := h.live(asAlice, `Object.defineProperty(navigator, "locks", { value: undefined })`)
		is.Equal(tab.run(`[is.shared, is.leader]`), []any{false, false})
	}
	is.Equal(len(h.connections()), 2)
}

// Offline and back: the client comes back by itself as soon as the network does,
// with all it missed, and does not wait for its next try.
func TestRealtimeOffline(t *testing.T) {
	h := newClientHub(t, "REALTIME_RETRY=1m")
	h.expected = []string{"net::ERR_INCOMPLETE_CHUNKED_ENCODING"} // so says the browser of a stream that is cut
	one := h.live(asAlice)
	two := h.live(asAlice)
	offline := func(offline bool) {
		for _, tab := range []*clientTab{one, two} {
			do(t, tab.page, network.Enable(), chromedp.ActionFunc(func(ctx context.Context) error {
				return network.EmulateNetworkConditions(offline, 0, -1, -1).Do(ctx)
			}))
		}
	}
	h.publish("a.b", 0)
	one.told(0)
	offline(true)
	h.wire.Cut()
	one.becomes(`is.state === "waiting"`)
	two.becomes(`is.state === "waiting"`)
	for i := range 3 {
		h.publish("a.b", i+1)
	}
	offline(false)
	for _, tab := range []*clientTab{one, two} {
		tab.told(0, 1, 2, 3)
		tab.becomes(`is.state === "live" && is.resume === "complete" && is.reconnects === 1`)
	}
}

// A stream that says nothing, not even its heartbeat, is a dead one: the client
// does not wait for the network to find out.
func TestRealtimeSilence(t *testing.T) {
	h := newClientHub(t, "REALTIME_HEARTBEAT=50ms")
	tab := h.live(asAlice)
	before := h.connections()[0]
	for range 2 { // when the second has passed the first was read
		select {
		case <-h.wire.Beat:
		case <-time.After(time.Minute):
			t.Fatal("no heartbeat")
		}
	}
	h.wire.Die()
	h.publish("a.b", 1)
	tab.run(`(() => { const now = Date.now; globalThis.late = 0; Date.now = () => now() + late; })()`)
	tab.becomes(`(late += 60_000, states.includes("waiting"))`) // what was sent before may still be read
	tab.becomes(`is.state === "live"`)
	tab.told(1)
	if after := tab.run(`is.connectionId`); after == before {
		t.Fatal("the same stream")
	}
}

// A leader that does not answer, as in a page that is busy or that the system put
// to sleep, is deposed. When it wakes it follows, and knows what it missed.
func TestRealtimeLeaderStandsStill(t *testing.T) {
	state := func(c *clientTab, state lifecycle.SetWebLifecycleStateState) {
		do(t, c.page, lifecycle.SetWebLifecycleState(state))
	}
	deposes := func(other *clientTab) {
		eventually(t, func() bool { return other.run(`is.leader && is.state === "live"`) == true })
	}
	follows := func(leader *clientTab) {
		eventually(t, func() bool { return leader.run(`is.state === "live" && !is.leader`) == true })
	}
	t.Run("frozen", func(t *testing.T) { // then it still hears its siblings, but not its stream
		h := newClientHub(t)
		leader, other := h.live(asAlice), h.live(asAlice)
		h.publish("a.b", 0)
		leader.told(0)
		other.told(0)
		state(leader, lifecycle.SetWebLifecycleStateStateFrozen)
		leader.run(`(() => { const now = Date.now; Date.now = () => now() + 60_000; })()`) // and what was read before was read a minute ago
		h.publish("a.b", 1)
		deposes(other)
		other.told(0, 1)
		h.publish("a.b", 2)
		state(leader, lifecycle.SetWebLifecycleStateStateActive)
		follows(leader)
		leader.told(0, 1, 2)
		other.told(0, 1, 2)
		is.New(t).Equal(len(h.connections()), 1)
	})
	t.Run("busy, and the other is new", func(t *testing.T) { // so it cannot know what the leader missed
		h := newClientHub(t)
		leader := h.live(asAlice)
		h.publish("a.b", 0)
		leader.told(0)
		do(t, leader.page, chromedp.Evaluate(`setTimeout(() => { for (const end = Date.now() + 15_000; Date.now() < end;); }); 0`, nil))
		other := h.open(asAlice)
		deposes(other)
		h.publish("a.b", 1)
		other.told(1)
		follows(leader)
		leader.becomes(`got.includes("gap unknown")`)
		h.publish("a.b", 2)
		leader.becomes(`got.filter((what) => what !== 1).join() === "0,gap unknown,2"`) // 1 was in its own stream's buffer
		other.told(1, 2)
	})
}

// A page that the browser put aside, and shows again on Back, is told what it missed,
// or that it cannot be had.
func TestRealtimeBack(t *testing.T) {
	h := newClientHub(t)
	h.path = "/realtime.js" // one that a browser may keep
	for _, c := range []struct {
		name, leads, before, after string // the siblings that were there, or come meanwhile
		want                       string
	}{
		{"alone", "", "", "", `[0,1,2]`},
		{"a sibling", "", asAlice, "", `[0,1,2]`},
		{"a sibling that wants less", "", asAlice + `, types: ["a.c"]`, "", `[0,"gap unknown",2]`},
		{"a leader", asAlice, "", "", `[0,1,2]`},
		{"a leader that wants less", asAlice + `, types: ["a.c"]`, "", "", `[0,"gap unknown",2]`},
		{"a sibling that is new", "", "", asAlice, `[0,"gap unknown",2]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var others []*clientTab
			if c.leads != "" {
				others = append(others, h.live(c.leads))
			}
			tab := h.live(asAlice)
			if c.before != "" {
				others = append(others, h.live(c.before))
			}
			h.publish("a.b", 0)
			tab.told(0)
			tab.run(`globalThis.kept = true`)
			do(t, tab.page, chromedp.Navigate(h.wire.URL+"/readyz"))
			if c.after != "" {
				others = append(others, h.live(c.after))
			}
			for _, other := range others {
				eventually(t, func() bool { return other.run(`is.leader && is.state === "live"`) == true })
			}
			h.publish("a.b", 1)
			do(t, tab.page, chromedp.Evaluate(`history.back()`, nil))
			eventually(t, func() bool { // while it goes back, nothing can be evaluated
				var there bool
				return chromedp.Run(tab.page, chromedp.Evaluate(`"got" in globalThis && kept && is.state === "live" && got.length > 1`, &there)) == nil && there
			})
			h.publish("a.b", 2)
			eventually(t, func() bool { return tab.run(`JSON.stringify(got)`) == c.want })
			for _, other := range append(others, tab) {
				other.close()
			}
		})
	}
}

// What one tab asks wrongly is its own mistake, and not the stream's that all share.
func TestRealtimeMistakes(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	tab := h.live(asAlice)
	for _, options := range []string{
		`types: ["message*"]`, `types: "a.b"`, `types: [""]`, `types: [7]`,
		`meta: {k: 1}`, `meta: {k: "x".repeat(257)}`, `cursor: "a b"`, `presence: Array.from({length: 201}, (_, i) => "user:" + i)`,
		`presence: "user:1"`, `presence: [""]`, `presence: ["user:"]`, `presence: ["User:1"]`, `presence: [null]`,
	} {
		is.Equal(tab.run(`import("/realtime.js").then(({ connect }) => { try { connect({ `+asAlice+`, `+options+` }); } catch (e) { return e.name; } })`), "TypeError") // each says what is wrong
	}
	is.Equal(tab.run(`(() => { try { c.presence.watch([""], () => {}); } catch (e) { return e.name; } })()`), "TypeError")
	is.Equal(len(h.connections()), 1)
	tab.becomes(adjusted(0))
}

// In a sandboxed frame, which may have no locks, the page goes on.
func TestRealtimeSandbox(t *testing.T) {
	h := newClientHub(t)
	tab := h.open(asAlice)
	tab.run(`(async () => {
		const client = (await (await fetch("/realtime.js")).text()).replace("export function connect", "function connect");
		globalThis.beats = [];
		addEventListener("message", (e) => beats.push(e.data));
		const frame = document.createElement("iframe");
		frame.setAttribute("sandbox", "allow-scripts");
		frame.srcdoc = "<script type=module>" + client + "; connect({ url: '" + location.origin + "', tenant: 't', profile: 'a' });"
			+ "navigator.locks.query().catch((e) => parent.postMessage(e.name, '*')); setInterval(() => parent.postMessage('beat', '*'), 20);</" + "script>";
		document.body.append(frame);
	})()`)
	tab.becomes(`beats.includes("SecurityError") && beats.length > 50`)
}

// A token of another person than before ends the client: nobody is shown what is
// somebody else's, neither here nor in the tabs that share the stream.
func TestRealtimeAnotherPerson(t *testing.T) {
	h := newClientHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=t1=service-key-0001")
	token := func(sub string, life time.Duration) string {
		return `"` + strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", sub, "exp", time.Now().Add(life).Unix()), "Bearer ") + `"`
	}
	changes := h.live(`token: () => globalThis.isBob ? ` + token("user:bob", time.Hour) + ` : ` + token("user:alice", 34*time.Second)) // asked anew 30 s before it ends
	stays := h.live(`token: () => ` + token("user:alice", time.Hour))
	is := is.New(t)
	is.Equal(len(h.connections()), 1)
	changes.run(`globalThis.isBob = true`)
	changes.becomes(`is.state === "closed" && is.problem.code === "IdentityChanged"`)
	stays.becomes(`is.state === "live" && is.leader`)
	h.call("POST", "/v1/tenants/t1/profiles/bob/events", `{"type":"a.b","payload":"for bob"}`)
	h.call("POST", "/v1/tenants/t1/profiles/alice/events", `{"type":"a.b","payload":"for alice"}`)
	stays.told("for alice")
	is.Equal(changes.run(`got.length`), 0.0)
}

// Who uses the page is online; who only has it open is away.
func TestRealtimeActivity(t *testing.T) {
	h := newClientHub(t, "REALTIME_IDLE_TIMEOUT=1s")
	tab := h.live(asAlice)
	tab.becomes(isAway)
	tab.run(`(() => { const now = performance.now(); performance.now = () => now + 30_000; })()`) // they are told of three times a minute
	do(t, tab.page, chromedp.MouseClickXY(10, 10))
	tab.becomes(isActiveAgain)
	tab.becomes(isAway)
}

// isAway says whether alice is away, and notes when she was active last.
const isAway = `fetch("/v1/tenants/t1/presence/alice").then(r => r.json()).then(r => (globalThis.activeAt = r.profiles[0].lastActiveAt, r.profiles[0].status === "away"))`

// isActiveAgain says whether she has been active since. For how short she was online does not
// matter.
const isActiveAgain = `fetch("/v1/tenants/t1/presence/alice").then(r => r.json()).then(r => r.profiles[0].lastActiveAt > activeAt)`

// The token is refreshed before it ends: the stream lives on, and no address has it.
func TestRealtimeToken(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=t1=service-key-0001")
	h.expected = []string{"realtime: token() threw"}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		io.WriteString(w, strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", "user:alice", "exp", time.Now().Add(24*time.Second).Unix()), "Bearer "))
	}))
	defer service.Close()
	options := `token: async () => {
		globalThis.asked = (globalThis.asked ?? 0) + 1;
		if (asked === 2) throw new Error("a service that is away, which is asked again");
		return (await fetch("` + service.URL + `")).text();
	}`
	tab := h.live(options)
	sibling := h.live(options)
	socket, poll := h.live(options+`, share: false, transport: "websocket"`), h.live(options+`, share: false, transport: "poll"`)
	is.Equal(tab.run(`[is.profile.id, is.tenantId]`), []any{"alice", "t1"})
	is.Equal(sibling.run(`is.shared && !is.leader`), true)
	id := tab.run(`is.connectionId`)
	tab.run(`new Promise((done) => setTimeout(done, 25_000))`) // longer than one token lives
	is.True(tab.run(`asked`).(float64) >= 3)
	h.publish("a.b", 1)
	tab.told(1)
	sibling.told(1)
	is.Equal(tab.run(`is.connectionId`), id)
	for _, other := range []*clientTab{tab, socket, poll} {
		other.told(1)
		is.Equal(other.run(`[is.reconnects, states.filter((state) => state === "live").length]`), []any{0.0, 1.0})
	}
	asked := strings.Join(h.wire.Asked(), "\n")
	is.True(strings.Contains(asked, "GET /v1/stream"))
	is.True(strings.Contains(asked, "PUT /v1/connections/"+id.(string)+"/token"))
	is.True(!strings.Contains(asked, "eyJ"))

	// A token that the hub refuses is said; the next one may be taken.
	refused, _ := chromedp.NewContext(h.browser)
	t.Cleanup(func() { chromedp.Cancel(refused) })
	do(t, refused, chromedp.Navigate(h.wire.URL+"/healthz")) // not by tab: a browser logs each 401 as an error
	bad := &clientTab{h, refused, nil}
	bad.run(fmt.Sprintf(openClient, `token: () => globalThis.good ?? "no.such.token"`))
	bad.becomes(`is.state === "waiting" && is.reason === "refused" && is.problem.status === 401 && is.problem.code === "InvalidCredential"`)
	bad.run(`globalThis.good = "` + strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", "user:alice"), "Bearer ") + `"`)
	bad.becomes(`is.state === "live"`)
}
