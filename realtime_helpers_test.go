package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// clientHub is the whole program and a browser, whose tabs hold clients of
// realtime.js.
type clientHub struct {
	t       *testing.T
	browser context.Context
	url     string // the hub's
	wire    *wire  // between the browser and it
	path    string // of the pages

	expected []string // of what the pages complain about
}

func newClientHub(t *testing.T, settings ...string) *clientHub {
	alone(t, "the program that it starts is its own")
	t.Parallel() // they wait, more than they work
	browser := browser(t)
	url := startHub(t, append([]string{"REALTIME_PRESENCE_TICK=50ms", "REALTIME_RETRY=200ms"}, settings...)...)
	return &clientHub{t: t, browser: browser, url: url, wire: newWire(t, url)}
}

// wire carries connections to a hub, until it is cut or goes dead.
type wire struct {
	url string
	mu  sync.Mutex
	// Guarded by mu.
	ends    []net.Conn
	streams map[net.Conn]bool
	dead    map[net.Conn]bool // what they send is lost
	asked   []string
	down    bool
	beat    chan struct{} // a heartbeat passed
}

func newWire(t *testing.T, url string) *wire {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{url: "http://" + listener.Addr().String(), streams: map[net.Conn]bool{}, dead: map[net.Conn]bool{}, beat: make(chan struct{}, 1)}
	var running sync.WaitGroup
	carry := func(to, from net.Conn) {
		defer to.Close()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			w.mu.Lock()
			dead := w.dead[from]
			if line, _, ok := bytes.Cut(buffer[:n], []byte(" HTTP/1.1\r\n")); ok {
				w.asked = append(w.asked, string(line))
			}
			if bytes.Contains(buffer[:n], []byte("text/event-stream\r\n")) {
				w.streams[from] = true
			}
			w.mu.Unlock()
			if n > 0 && !dead {
				to.Write(buffer[:n])
			}
			if bytes.Contains(buffer[:n], []byte("\n:\n\n")) { // a chunk of its own
				select {
				case w.beat <- struct{}{}:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}
	running.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			if w.down {
				near.Close()
				far.Close()
			}
			w.ends = append(w.ends, near, far)
			w.mu.Unlock()
			running.Go(func() { carry(near, far) })
			running.Go(func() { carry(far, near) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		w.cut()
		running.Wait()
	})
	return w
}

// cut ends all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, end := range w.ends {
		end.Close()
	}
	w.ends = nil
}

// set has it down, cut and for nobody to get through, or up again.
func (w *wire) set(down bool) {
	w.mu.Lock()
	w.down = down
	w.mu.Unlock()
	if down {
		w.cut()
	}
}

// die has all streams that there are carry nothing any more, and say nothing of it.
func (w *wire) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.dead, w.streams)
}

// clientTab is a page with a client c, which keeps in got what it is told.
type clientTab struct {
	h     *clientHub
	page  context.Context
	close func()
}

const openClient = `(async () => {
	const { connect } = await import("/realtime.js");
	Object.assign(globalThis, { got: [], states: [], is: {} });
	globalThis.c = connect({ url: location.origin, %s });
	c.on("a.*", (e) => got.push(e.payload));
	c.onGap((gap) => got.push("gap " + gap.reason));
	c.onStatus((s) => { is = s; states.push(s.state); });
})()`

// open opens a tab and its client; options are JavaScript. before runs first.
func (h *clientHub) open(options string, before ...string) *clientTab {
	h.t.Helper()
	page, closeTab := tab(h.t, h.browser, h.wire.url+cmp.Or(h.path, "/healthz"), h.expected...)
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
	wait := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
	do(c.h.t, c.page, chromedp.Evaluate(`(async () => await (`+expression+`) ?? null)()`, &data, wait))
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
	err := chromedp.Run(c.page, chromedp.Poll(`JSON.stringify(got) === `+string(mustJSON(string(text))), &ok,
		chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(time.Minute))) // a tab in the background paints no frames
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
