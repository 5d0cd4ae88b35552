package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// A browser's WebSocket has its token as a subprotocol, gets events, sends commands, comes back
// with what it missed, and learns why it was refused or ended.
func TestBrowserWebSocket(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	ctx := browser(t)
	h := hubtest.Start(t, "REALTIME_JWT_SECRET="+hubtest.Secret, "REALTIME_API_KEYS=acme=service-key-0001", "REALTIME_PRESENCE_AUDIENCE=none", "REALTIME_HEARTBEAT=2s")
	page, _ := tab(t, ctx, h.URL+"/healthz")
	token := strings.TrimPrefix(hubtest.Bearer(t, "tenant", "acme", "sub", "user:me"), "Bearer ")
	open := func(query, token string) {
		t.Helper()
		do(t, page, chromedp.Evaluate(`globalThis.got = []; globalThis.last = ""; globalThis.ended = "";
			globalThis.socket = new WebSocket("/v1/socket?`+query+`".replace(/^/, location.origin.replace("http", "ws")), ["realtime.v1", "bearer.`+token+`"]);
			socket.onclose = e => ended = e.code + " " + e.reason;
			socket.onmessage = ({data}) => {
				for (const line of data.split("\n")) {
					const said = JSON.parse(line);
					if (said.id) last = said.id;
					if (said.n) got.push(said.n + (said.ok ? " ok" : " " + said.problem.code));
					else if (said.event === "hub.ready") { globalThis.connection = said.data.connectionId; got.push(said.data.resume); }
					else if (said.event === "hub.closing") got.push(said.data.reason + (said.data.problem ? " " + said.data.problem.code : ""));
					else if (said.event) got.push(said.data.payload);
				}
			}; 0`, nil))
	}
	shows := func(want string) {
		t.Helper()
		becomes(t, page, `got.join(" ") === "`+want+`"`)
	}
	publish := func(payload string) {
		h.Publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, payload, "X-API-Key", "service-key-0001")
	}
	open("", token)
	shows("fresh")
	becomes(t, page, `socket.protocol === "realtime.v1" && socket.extensions === ""`)
	publish("1")
	shows("fresh 1")
	do(t, page, chromedp.Evaluate(`socket.send('{"n":1,"do":"touch"}\n{"n":2,"do":"sing"}'); 0`, nil))
	shows("fresh 1 1 ok 2 InvalidField")
	var last, connection string
	do(t, page, chromedp.Evaluate(`last`, &last), chromedp.Evaluate(`connection`, &connection))
	do(t, page, chromedp.Evaluate(`socket.close(); 0`, nil))
	becomes(t, page, `ended === "1005 "`) // the hub has answered its close frame
	publish("2")
	open("cursor="+last, token)
	shows("complete 2")
	do(t, page, chromedp.Evaluate(`connection`, &connection))
	status, _ := h.Do(t, "DELETE", "/v1/tenants/acme/connections/"+connection, "", "X-API-Key", "service-key-0001")
	is.Equal(status, 204)
	shows("complete 2 kicked")
	becomes(t, page, `ended === "4410 kicked"`)
	open("", "a.b.c")
	shows("refused InvalidCredential")
	becomes(t, page, fmt.Sprintf(`ended === %q`, "4403 refused"))
}
