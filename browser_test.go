package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/history"
)

// browser starts a real headless browser; without one the test is skipped, in CI
// it fails.
func browser(t *testing.T) context.Context {
	alone(t, "a browser's page is of one hub")
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		lacks(t, "there is no Chromium")
	}
	bounded, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	for tries := 1; ; tries++ {
		ctx, err := startBrowser(t, bounded, path)
		if err == nil {
			return ctx
		}
		if tries == 3 { // on a machine that is very busy it may not come up
			t.Fatal(err)
		}
		t.Log(err)
	}
}

func startBrowser(t *testing.T, ctx context.Context, path string) (context.Context, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.UserDataDir(browserFolder(t)), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true))
	allocator, cancel := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(func() {
		cancel()
		chromedp.FromContext(allocator).Allocator.Wait()
	})
	page, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() { chromedp.Cancel(page); cancel() })
	return page, chromedp.Run(page)
}

// browserFolder is a folder for a browser's profile. The browser's own children may
// write into it for a while after it has ended, so removing it may take several tries.
func browserFolder(t *testing.T) string {
	folder, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for tries := 0; ; tries++ {
			err := os.RemoveAll(folder)
			if err == nil {
				return
			}
			if tries == 600 {
				t.Error(err)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return folder
}

// serve runs the whole program on a free port.
func startHub(t *testing.T, settings ...string) (url string) {
	alone(t, "the program has a hub of its own")
	ctx, stop := context.WithCancel(context.Background())
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0"), &syncBuffer{}, func(a net.Addr) { addr <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + (<-addr).String()
}

// tab opens a page; what the page complains about fails the test, but for what is expected.
func tab(t *testing.T, browser context.Context, url string, expected ...string) (page context.Context, closeTab func()) {
	page, cancel := chromedp.NewContext(browser)
	var once sync.Once
	closeTab = func() { once.Do(func() { chromedp.Cancel(page); cancel() }) }
	t.Cleanup(closeTab)
	chromedp.ListenTarget(page, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("%s: exception: %v", url, e.ExceptionDetails)
		case *log.EventEntryAdded:
			isExpected := func(text string) bool { return strings.Contains(e.Entry.Text, text) }
			if e.Entry.Level == log.LevelError && !strings.HasSuffix(e.Entry.URL, "/favicon.ico") && !slices.ContainsFunc(expected, isExpected) {
				t.Errorf("%s: %s", url, e.Entry.Text)
			}
		}
	})
	do(t, page, log.Enable(), chromedp.Navigate(url))
	return page, closeTab
}

func do(t *testing.T, page context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(page, actions...); err != nil {
		t.Fatal(err)
	}
}

// becomes waits until a JavaScript expression is true on the page.
func becomes(t *testing.T, page context.Context, expression string) {
	t.Helper()
	var ok bool
	if err := chromedp.Run(page, chromedp.Poll(expression, &ok, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(time.Minute))); err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
}

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
			.then(r => r.json()).then(r => r.cursor)`, &cursors[i], func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
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
	alone(t, "its page is of one hub")
	ctx := browser(t)
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.Events = 3
		hub.Log, hub.Retry, hub.StreamBuffer = history.NewMemory(limits), 3*time.Second, 256<<10 // what is published while it is away takes less
	})
	page, _ := tab(t, ctx, h.URL+"/healthz")
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
	publish := func(payload string) { h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, payload) }
	cut := func() { // it is to come back at once, as who is kicked is not
		for _, c := range h.streams.Connections("acme", nil) {
			h.streams.Kick(c, delivery.CloseDrain)
		}
	}

	listen("")
	shows("fresh")
	publish("0")
	shows("fresh 0")
	cut() // and while it is away
	for i := range 2 {
		publish(fmt.Sprint(i + 1))
	}
	shows("fresh 0 complete 1 2")
	cut()
	for i := range 5 {
		publish(fmt.Sprint(i + 3))
	}
	shows("fresh 0 complete 1 2 partial gap expired moved 5 6 7")
	publish("8")
	shows("fresh 0 complete 1 2 partial gap expired moved 5 6 7 8")

	listen("&cursor=0123456789abcdef-5")
	shows("partial gap unknown moved")
	publish("9")
	shows("partial gap unknown moved 9")
	cut() // it has a good id now, which the cursor of its address gives way to
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
	for posted := 0; h.Stats().Gaps[delivery.GapSlow] == 0; posted++ {
		if posted == 20_000 {
			t.Error("nothing was shed")
			break
		}
		h.post(t, "/v1/events", `{"tenantId":"acme","type":"c.d","payload":`+filler+`,"target":{"kind":"tenant"},"ephemeral":true}`)
	}
	close(shed)
	if err := <-stalled; err != nil {
		t.Fatal(err)
	}
	becomes(t, page, `got.includes("gap slow")`)
}

// awaited is for an expression that is a promise.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

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
	evaluate(byQuery, `document.cookie = "`+access.TokenCookie+`=`+token("user:cookie", "subscribe")+`; SameSite=Strict; path=/"; 0`, nil)
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
