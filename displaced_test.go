package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lifecycle "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/delivery"
)

// Who was displaced is told to stay away for minutes, in retry: as well, which is all
// that a stock client listens to; who is sent away for the hub's sake is not.
func TestDisplacedStayAway(t *testing.T) {
	alone(t, "limits are each hub's own")
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Most, c.Retry = delivery.Limits{Profile: 1}, 10*time.Millisecond
	})
	stays := func(c *testClient, reason delivery.CloseReason, least time.Duration) {
		t.Helper()
		var closing struct {
			Reason  delivery.CloseReason
			RetryMS int64
		}
		is.NoErr(json.Unmarshal([]byte(c.until(t, "hub.closing").Data), &closing))
		is.Equal(closing.Reason, reason)
		wait := time.Duration(closing.RetryMS) * time.Millisecond
		is.True(wait >= least && wait < 2*least) // jittered
		told, _ := c.reader.Retry()
		is.Equal(told, wait)
	}
	first := h.open(t, meQuery)
	retry, _ := first.reader.Retry()
	is.Equal(retry, 10*time.Millisecond)
	second := h.open(t, meQuery)
	stays(first, delivery.CloseReplaced, 5*time.Minute)
	status, _ := h.do(t, http.MethodDelete, "/v1/tenants/acme/connections/"+second.ConnectionID, "")
	is.Equal(status, http.StatusNoContent)
	stays(second, delivery.CloseKicked, 5*time.Minute)
	third := h.open(t, meQuery) // and who comes nevertheless is told the usual again
	retry, _ = third.reader.Retry()
	is.Equal(retry, 10*time.Millisecond)
	h.streams.Kick(h.streams.Connections("acme", nil)[0], delivery.CloseDrain)
	stays(third, delivery.CloseDrain, 10*time.Millisecond)
}

// Two devices of one person, where one connection is allowed: they are counted, and what
// docs/client.md has a page show is shown.
func TestRealtimeDisplaced(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t, "REALTIME_MAX_CONNECTIONS_PER_PROFILE=1", "REALTIME_RETRY=20ms", "REALTIME_HEARTBEAT=50ms")
	var script string
	for _, b := range blocksOf(t, "docs/client.md") {
		if strings.Contains(b.text, "displaced") {
			script = b.text
		}
	}
	is.True(script != "")
	connects := func() (n int) {
		h.wire.mu.Lock()
		defer h.wire.mu.Unlock()
		for _, line := range h.wire.asked {
			if strings.HasPrefix(line, "GET /v1/stream") {
				n++
			}
		}
		return n
	}
	const device = asAlice + `, share: false`
	one := h.live(device)
	do(t, one.page, chromedp.Evaluate(`document.body.innerHTML = '<p id="elsewhere" hidden><span></span> <button>Use it here</button></p>'; { const hub = c; `+script+`} 0`, nil))
	is.Equal(one.run(`document.querySelector("#elsewhere").hidden`), true)
	two := h.live(device)
	one.becomes(`is.state === "displaced" && is.reason === "replaced"`)
	one.becomes(`!document.querySelector("#elsewhere").hidden && document.querySelector("#elsewhere span").textContent.includes("another device")`)
	for i := range 40 { // many times the 20 ms after which they came back
		<-h.wire.beat
		h.publish("a.b", i)
	}
	two.becomes(`got.at(-1) === 39`)
	is.Equal(connects(), 2)
	is.Equal(one.run(`got.length`), 0.0)
	do(t, one.page, click("#elsewhere button"))
	one.becomes(`is.state === "live" && got.at(-1) === 39 && got.length === 40`)
	one.becomes(`document.querySelector("#elsewhere").hidden`)
	two.becomes(`is.state === "displaced"`)
	is.Equal(connects(), 3)
	h.call("DELETE", "/v1/tenants/t1/connections?profile=alice", "")
	one.becomes(`is.reason === "kicked" && document.querySelector("#elsewhere span").textContent.includes("ended")`)
	is.Equal(connects(), 3)
}

// The types say what the client takes and gives, with a map of events and without, also
// in docs/client.md.
func TestRealtimeTypes(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	dir := packed(t, "typescript@5.9.3")
	program, err := os.ReadFile("testdata/node/types.ts")
	is.NoErr(err)
	is.NoErr(os.WriteFile(filepath.Join(dir, "types.ts"), program, 0o644))
	shown := "import { connect } from 'realtimehub';\ndeclare const token: () => string;\ndeclare function show(text: string): void;\ndeclare function hide(id: string): void;\n"
	for _, b := range blocksOf(t, "docs/client.md") {
		if b.language == "ts" {
			shown += b.text
		}
	}
	is.True(strings.Contains(shown, "connect<"))
	is.NoErr(os.WriteFile(filepath.Join(dir, "shown.ts"), []byte(shown), 0o644))
	node(t, dir, "node", "node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom", "types.ts", "shown.ts")
}

// Tabs that share a stream are displaced together, and come back together, once.
func TestRealtimeDisplacedTabs(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t, "REALTIME_MAX_CONNECTIONS_PER_PROFILE=1", "REALTIME_RETRY=20ms")
	one, two := h.live(asAlice), h.live(asAlice)
	device := h.live(asAlice + `, share: false`)
	for _, tab := range []*clientTab{one, two} {
		tab.becomes(`is.state === "displaced"`)
	}
	h.publish("a.b", 1)
	device.told(1)
	do(t, two.page, lifecycle.BringToFront()) // somebody is there, in the tab that does not lead
	for i := range 5 {
		do(t, two.page, chromedp.KeyEvent(fmt.Sprint(i)))
	}
	for _, tab := range []*clientTab{one, two} {
		tab.becomes(`is.state === "live"`)
		tab.told(1)
	}
	device.becomes(`is.state === "displaced"`)
	is.Equal(one.run(`states.filter((state) => state === "live").length`), 2.0)
	is.Equal(len(h.connections()), 1)
}
