//go:build unix

package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// The npm package fetch-event-source, as the page has it, comes back from each end of its
// stream with what it missed, and takes no heartbeat for a message.
func TestRecipesFetchEventSource(t *testing.T) {
	t.Parallel()
	needNode(t)
	needs(t, "npm")
	is := is.New(t)
	r := newRecipes(t, "REALTIME_HEARTBEAT=50ms")
	if out, err := r.command("npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "@microsoft/fetch-event-source@2.0.1").CombinedOutput(); err != nil {
		lacks(t, "npm cannot install: "+string(out))
	}
	publish := func(text string) {
		status, _ := r.hub(http.MethodPost, "/v1/tenants/acme/profiles/user:42/events", `{"type":"order.paid","payload":"`+text+`"}`)
		is.Equal(status, http.StatusAccepted)
	}
	printed := r.start("node", "fetch-event-source.mjs")
	r.connected(1)
	publish("live")
	r.prints(printed, "live")
	for _, missed := range []string{"missed", "missed again"} {
		status, _ := r.hub(http.MethodDelete, "/v1/tenants/acme/connections?profile=user:42", "")
		is.Equal(status, http.StatusNoContent)
		publish(missed)
		r.prints(printed, `order.paid "`+missed+`"`)
	}
	is.Equal(strings.Join(strings.Fields(printed.String()), " "),
		`order.paid "live" lost: the hub has ended the stream order.paid "missed" lost: the hub has ended the stream order.paid "missed again"`)
}
