package browser

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

func TestBrowserEventSource(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	url := startHub(t, "REALTIME_PRESENCE_TICK=50ms")
	listen := func(profile string) context.Context {
		page, _ := tab(t, ctx, url+"/healthz")
		do(t, page, chromedp.Evaluate(`globalThis.got = []; globalThis.ready = false;
			globalThis.source = new EventSource("/v1/stream?tenant=t1&profile=`+profile+`");
			source.addEventListener("hub.ready", () => ready = true);
			source.addEventListener("message.received", e => got.push(e.lastEventId + " " + JSON.parse(e.data).payload));
			source.addEventListener("presence.online", e => got.push("online " + JSON.parse(e.data).payload.profile.id)); 0`, nil))
		becomes(t, page, `ready`)
		return page
	}
	alice := listen("user:alice")
	bob := listen("user:bob")
	becomes(t, alice, `got.includes("online bob")`)

	var cursors [2]string
	for i, who := range []string{"alice", "bob"} {
		page := []context.Context{alice, bob}[i]
		do(t, page, chromedp.Evaluate(`fetch("/v1/tenants/t1/profiles/user:`+who+`/events", {method: "POST",
			headers: {"Content-Type": "application/json"}, body: JSON.stringify({type: "message.received", payload: "for `+who+`"})})
			.then(r => r.json()).then(r => r.cursor)`, &cursors[i], awaited))
	}
	becomes(t, alice, fmt.Sprintf(`got.includes(%q)`, cursors[0]+" for alice"))
	becomes(t, bob, fmt.Sprintf(`got.includes(%q)`, cursors[1]+" for bob"))
	var seen []string
	do(t, bob, chromedp.Evaluate(`got`, &seen))
	is := is.New(t)
	is.True(!strings.Contains(strings.Join(seen, "\n"), "for alice")) // nobody else's
}

// A stock EventSource learns of each kind of gap by itself: it reconnects with the
// id it has, and hears hub.gap before it hears anything else.
func TestBrowserGaps(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	h := hubtest.Start(t, "REALTIME_HISTORY_EVENTS=3", "REALTIME_RETRY=200ms", "REALTIME_STREAM_BUFFER=262144", // what is published while it is away takes less
		"REALTIME_PRESENCE_AUDIENCE=none")
	wire := hubtest.NewWire(t, hubtest.CheckedFront(t, h.URL).URL)
	page, _ := tab(t, ctx, wire.URL+"/healthz", "net::ERR_") // so says the browser of a stream that is cut, and of a hub that is away
	listen := func(query string) {
		do(t, page, chromedp.Evaluate(`globalThis.source?.close(); globalThis.got = [];
			globalThis.source = new EventSource("/v1/stream?tenant=acme&profile=me`+query+`");
			source.addEventListener("hub.ready", e => got.push(JSON.parse(e.data).resume));
			source.addEventListener("hub.gap", e => got.push("gap " + JSON.parse(e.data).reason + (e.lastEventId === JSON.parse(e.data).cursor ? " moved" : "")));
			source.addEventListener("a.b", e => got.push(JSON.parse(e.data).payload)); 0`, nil))
	}
	shows := func(want string) {
		t.Helper()
		becomes(t, page, `got.join(" ") === "`+want+`"`)
	}
	publish := func(payload string) {
		h.Publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, payload)
	}
	missing := func(first, last int) { // it is cut off while these are published
		wire.Set(true)
		for i := first; i <= last; i++ {
			publish(fmt.Sprint(i))
		}
		wire.Set(false)
	}

	listen("")
	shows("fresh")
	publish("0")
	shows("fresh 0")
	missing(1, 2)
	shows("fresh 0 complete 1 2")
	missing(3, 7)
	shows("fresh 0 complete 1 2 partial gap expired moved 5 6 7")
	publish("8")
	shows("fresh 0 complete 1 2 partial gap expired moved 5 6 7 8")

	listen("&cursor=0123456789abcdef-5")
	shows("partial gap unknown moved")
	publish("9")
	shows("partial gap unknown moved 9")
	wire.Cut() // it has a good id now, which the cursor of its address gives way to
	shows("partial gap unknown moved 9 complete")

	// The page stands still until its stream has fallen so far behind that what is
	// ephemeral was shed: it waits in a synchronous request.
	listen("")
	shows("fresh")
	shed := make(chan struct{})
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-shed
		w.Header().Set("Access-Control-Allow-Origin", "*")
	}))
	t.Cleanup(gate.Close)
	stalled := make(chan error, 1)
	go func() {
		stalled <- chromedp.Run(page, chromedp.Evaluate(`{ const gate = new XMLHttpRequest(); gate.open("GET", "`+gate.URL+`", false); gate.send(); } 0`, nil))
	}()
	filler := `"` + strings.Repeat("x", 60_000) + `"`
	for posted := 0; h.Metric(t, `realtime_gaps_total{reason="slow"}`) == 0; posted++ {
		if posted == 20_000 {
			t.Error("nothing was shed")
			break
		}
		h.Post(t, "/v1/events", `{"tenantId":"acme","type":"c.d","payload":`+filler+`,"target":{"kind":"tenant"},"ephemeral":true}`)
	}
	close(shed)
	if err := <-stalled; err != nil {
		t.Fatal(err)
	}
	becomes(t, page, `got.includes("gap slow")`)
}

// The same with credentials on: a stock EventSource with a cookie and with
// access_token.
func TestBrowserCredentials(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	is := is.New(t)
	token := func(sub, scope string) string {
		return strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", sub, "scope", scope), "Bearer ")
	}
	url := startHub(t, "REALTIME_PRESENCE_TICK=50ms", "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=t1=service-key-0001")
	evaluate := func(page context.Context, expression string, result any) {
		do(t, page, chromedp.Evaluate(expression, result, awaited))
	}
	listen := func(query string) context.Context {
		page, _ := tab(t, ctx, url+"/healthz")
		evaluate(page, `globalThis.got = []; globalThis.source = new EventSource("/v1/stream`+query+`");
			source.addEventListener("hub.ready", e => { globalThis.hello = JSON.parse(e.data); got.push("ready " + hello.profile.id); });
			source.addEventListener("a.b", e => got.push(JSON.parse(e.data).payload)); 0`, nil)
		return page
	}
	byQuery := listen("?access_token=" + token("user:query", "subscribe"))
	becomes(t, byQuery, `got.includes("ready query")`)
	evaluate(byQuery, `document.cookie = "realtime_token=`+token("user:cookie", "subscribe")+`; SameSite=Strict; path=/"; 0`, nil)
	byCookie := listen("")
	becomes(t, byCookie, `got.includes("ready cookie")`)
	var status int
	evaluate(byCookie, `fetch("/v1/connections/" + hello.connectionId + "/touch", {method: "POST"}).then(r => r.status)`, &status)
	is.Equal(status, 204)
	evaluate(byCookie, `fetch("/v1/tenants/t1/events", {method: "POST", headers: {"Content-Type": "application/json", "X-API-Key": "service-key-0001"}, body: '{"type":"a.b","payload":"from a service"}'}).then(r => r.status)`, &status)
	is.Equal(status, 202)
	for _, page := range []context.Context{byQuery, byCookie} {
		becomes(t, page, `got.includes("from a service")`)
	}
}
