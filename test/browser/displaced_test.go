package browser

import (
	"fmt"
	"strings"
	"testing"

	lifecycle "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// Two devices of one person, where one connection is allowed: they are counted, and what
// docs/client.md has a page show is shown.
func TestRealtimeDisplaced(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t, "REALTIME_MAX_CONNECTIONS_PER_PROFILE=1", "REALTIME_RETRY=20ms", "REALTIME_HEARTBEAT=50ms")
	var script string
	for _, b := range hubtest.Blocks(t, "docs/client.md") {
		if strings.Contains(b.Text, "displaced") {
			script = b.Text
		}
	}
	is.True(script != "")
	connects := func() (n int) {
		for _, line := range h.wire.Asked() {
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
		<-h.wire.Beat
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
