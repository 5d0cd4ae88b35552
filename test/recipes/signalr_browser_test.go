//go:build unix

package recipes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/browsertest"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// signalRPage opens a page that does what the docs' page does, over one transport, and keeps what
// it is shown.
func signalRPage(t *testing.T, browser context.Context, url, library, transport string) context.Context {
	t.Helper()
	program := ""
	for _, block := range blocksOf(t, "docs/signalr.md") {
		if block.Language == "js" {
			program = block.Text
		}
	}
	const address, asMe = "https://realtime.example.com/signalr", "?tenant=acme&profile=me"
	program = strings.NewReplacer(
		"import * as signalR from '@microsoft/signalr';", "",
		address+"?", url+"/signalr"+asMe+"&",
		address, url+"/signalr"+asMe,
		"accessTokenFactory: token", "transport: signalR.HttpTransportType."+transport,
	).Replace(program)
	page, _ := browsertest.Tab(t, browser, url+"/healthz", "") // it complains of each connection that ends
	browsertest.Do(t, page, chromedp.Evaluate(library+"; 0", nil), chromedp.Evaluate(`
		addEventListener("unhandledrejection", (e) => e.preventDefault()); // the client leaves a POST alone that fails while it stops
		globalThis.shown = []; globalThis.returns = 0;
		globalThis.show = (payload) => shown.push(payload);
		(async () => {`+program+`
			hub.onreconnected(() => returns++);
			globalThis.started = true;
		})(); 0`, nil))
	browsertest.Becomes(t, page, `globalThis.started`)
	return page
}

// Pages with the stock client, as the docs have them, miss nothing and are shown nothing twice:
// nginx sends each of their requests to another hub, and each hub is killed or drained in turn.
func TestSignalRBrowser(t *testing.T) {
	t.Parallel()
	needs(t, "nginx")
	is := is.New(t)
	browser := browsertest.Start(t)
	library, err := os.ReadFile(filepath.Join(signalRPrograms(t), "node_modules/@microsoft/signalr/dist/browser/signalr.min.js"))
	is.NoErr(err)
	broker := natstest.Start(t, 1)
	var hubs []*hubtest.Program
	for range 3 { // each at an address that nobody is given while it is away
		hubs = append(hubs, hubtest.StartCluster(t, 1, broker, "REALTIME_ADDR=127.0.0.1:"+freePort(t))...)
	}
	nginx := configuredNginx(t, deployNginx(t), hubs[0].Addr, hubs[1].Addr, hubs[2].Addr)
	hubs[0].Changes(t, "PUT", "/v1/tenants/acme/conversations/7/members", `{"members":["user:me"]}`)
	pages := map[string]context.Context{}
	for _, transport := range signalRTransports {
		pages[transport] = signalRPage(t, browser, nginx.url, string(library), transport)
	}
	said := 0
	say := func(hub *hubtest.Program) {
		for range 10 {
			said++
			hub.Publish(t, "acme", "order.paid", `{"kind":"profile","profiles":["me"]}`, fmt.Sprint(said))
		}
	}
	for n, end := range []func(*hubtest.Program){(*hubtest.Program).Kill, func(h *hubtest.Program) { h.Stop() }, (*hubtest.Program).Kill} {
		other := hubs[(n+1)%len(hubs)]
		say(other)
		end(hubs[n])
		say(other)
		hubs[n] = hubtest.StartCluster(t, 1, broker, "REALTIME_ADDR="+hubs[n].Addr)[0]
		for _, page := range pages {
			var shown string
			browsertest.Do(t, page, browsertest.Poll(fmt.Sprintf(`shown.length >= %d && shown.join(" ")`, said), &shown))
			is.Equal(shown, counted(said)) // each once and in order
		}
	}
	for _, page := range pages {
		browsertest.Becomes(t, page, `returns >= 1`) // it was at one of them
	}
}

// counted are the numbers from 1.
func counted(to int) string {
	var b strings.Builder
	for n := range to {
		fmt.Fprintf(&b, " %d", n+1)
	}
	return strings.TrimPrefix(b.String(), " ")
}
