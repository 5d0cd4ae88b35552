package browser

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"realtimehub/internal/browsertest"
	"realtimehub/internal/hubtest"
)

// clientHub is the whole program and a browser, whose tabs hold clients of
// realtime.js.
type clientHub struct {
	t       *testing.T
	browser context.Context
	url     string        // the hub's
	wire    *hubtest.Wire // between the browser and it
	path    string        // of the pages

	expected []string // of what the pages complain about
}

func newClientHub(t *testing.T, settings ...string) *clientHub {
	t.Parallel() // they wait, more than they work
	browser := browser(t)
	url := startHub(t, append([]string{"REALTIME_PRESENCE_TICK=50ms", "REALTIME_RETRY=200ms"}, settings...)...)
	return &clientHub{t: t, browser: browser, url: url, wire: hubtest.NewWire(t, url)}
}

// clientTab is a page with a client c, which keeps in got what it is told. Its transport is named, or
// on a very busy machine it would take another.
type clientTab struct {
	h     *clientHub
	page  context.Context
	close func()
}

const openClient = `(async () => {
	const { connect } = await import("/realtime.js");
	Object.assign(globalThis, { got: [], states: [], is: {} });
	globalThis.c = connect({ url: location.origin, transport: "sse", %s });
	c.on("a.*", (e) => got.push(e.payload));
	c.onGap((gap) => got.push("gap " + gap.reason));
	c.onStatus((s) => { is = s; states.push(s.state); });
})()`

// open opens a tab and its client; options are JavaScript. before runs first.
func (h *clientHub) open(options string, before ...string) *clientTab {
	h.t.Helper()
	page, closeTab := tab(h.t, h.browser, h.wire.URL+cmp.Or(h.path, "/healthz"), h.expected...)
	tab := &clientTab{h, page, closeTab}
	tab.run(strings.Join(before, ";"))
	tab.run(fmt.Sprintf(openClient, options))
	return tab
}

const asAlice = `tenant: "t1", profile: "alice"`

// live opens a tab and waits for its stream.
func (h *clientHub) live(options string, before ...string) *clientTab {
	h.t.Helper()
	tab := h.open(options, before...)
	tab.becomes(`is.state === "live"`)
	return tab
}

func (c *clientTab) becomes(expression string) {
	c.h.t.Helper()
	becomes(c.h.t, c.page, expression)
}

// run awaits an expression, and gives what it comes to.
func (c *clientTab) run(expression string) (result any) {
	c.h.t.Helper()
	if expression == "" {
		return nil
	}
	var data []byte
	do(c.h.t, c.page, chromedp.Evaluate(`(async () => await (`+expression+`) ?? null)()`, &data, awaited))
	if err := json.Unmarshal(data, &result); err != nil {
		c.h.t.Fatal(err)
	}
	return result
}

// told waits until a tab has been told just this.
func (c *clientTab) told(want ...any) {
	c.h.t.Helper()
	text, _ := json.Marshal(want)
	var ok bool
	err := chromedp.Run(c.page, browsertest.Poll(`JSON.stringify(got) === `+string(mustJSON(string(text))), &ok))
	if err != nil {
		c.h.t.Fatalf("told %v, not %s: %v", c.run(`got`), text, err)
	}
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

func (h *clientHub) call(method, path, body string) map[string]any {
	h.t.Helper()
	req, _ := http.NewRequest(method, h.url+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-API-Key", "service-key-0001")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		h.t.Fatal(method, path, res.Status)
	}
	var answer map[string]any
	json.NewDecoder(res.Body).Decode(&answer)
	return answer
}

func (h *clientHub) publish(kind string, payload any, more ...string) {
	h.t.Helper()
	fields := ""
	for _, field := range more {
		fields += "," + field
	}
	h.call("POST", "/v1/tenants/t1/events", fmt.Sprintf(`{"type":%q,"payload":%s%s}`, kind, mustJSON(payload), fields))
}

// connections are the ids of the streams that the hub has.
func (h *clientHub) connections() (ids []string) {
	h.t.Helper()
	for _, c := range h.call("GET", "/v1/tenants/t1/connections", "")["connections"].([]any) {
		ids = append(ids, c.(map[string]any)["id"].(string))
	}
	return ids
}
