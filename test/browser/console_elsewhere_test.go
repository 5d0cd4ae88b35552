package browser

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"realtimehub/internal/hubtest"
)

// Where administrators have an address of their own, the console at the other names it, and the one there has all.
func TestBrowserConsoleElsewhere(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	hub := hubtest.Start(t, "REALTIME_ADMIN_ADDR=127.0.0.1:0")
	var inner string
	eventually(t, func() bool {
		_, after, found := strings.Cut(hub.Logs.String(), `msg="listening for services and operators" url=`)
		inner, _, _ = strings.Cut(after, "\n")
		return found
	})
	page, _ := tab(t, ctx, hub.URL+"/", "404")
	const named = "REALTIME_ADMIN_ADDR"
	becomes(t, page, exists(inPane("alice", `[data-state="live"]`)))
	becomes(t, page, contains(inPane("alice", ".note"), named)+` && `+contains("#people-note", named))
	for _, panel := range []string{"live", "connections"} {
		do(t, page, chromedp.ScrollIntoView("#"+panel, chromedp.ByQuery))
		becomes(t, page, contains("#"+panel+"-note", named))
	}
	there, _ := tab(t, ctx, inner+"/")
	becomes(t, there, textOf("#people-count")+` === "2 online"`)
	becomes(t, there, `fetch("/v1/tenants/demo/conversations/lobby/members").then(r => r.json()).then(r => r.members.length === 2)`)
	do(t, page, chromedp.SendKeys(inPane("alice", ".message"), "h", chromedp.ByQuery)) // who is a member is one at both
	becomes(t, there, contains(inPane("bob", ".typing"), "alice is typing"))
	do(t, there, chromedp.ScrollIntoView("#connections", chromedp.ByQuery))
	becomes(t, there, exists(`#rows [data-profile="user:alice"]`)+` && `+textOf("#connections-note")+` === ""`)
}
