//go:build unix

package recipes

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// The npm package fetch-event-source, as the page has it, comes back from each end of its
// stream with what it missed, and takes no heartbeat for a message.
func TestRecipesFetchEventSource(t *testing.T) {
	t.Parallel()
	needNode(t)
	needs(t, "npm")
	is := is.New(t)
	r := newRecipes(t, "REALTIME_HEARTBEAT=50ms")
	installed(t, r.dir, "@microsoft/fetch-event-source@2.0.1")
	publish := func(text string) {
		status, _ := r.hub(http.MethodPost, "/v1/tenants/acme/profiles/user:42/events", `{"type":"order.paid","payload":"`+text+`"}`)
		is.Equal(status, http.StatusAccepted)
	}
	printed := r.start("node", "fetch-event-source.mjs")
	r.connected(1)
	publish("live")
	r.prints(printed, "live")
	for _, missed := range []string{"missed", "missed again"} {
		ends := strings.Count(printed.String(), "lost:") + 1
		_, list := r.hub(http.MethodGet, "/v1/tenants/acme/connections", "")
		connection := list["connections"].([]any)[0].(map[string]any)["id"].(string)
		testkit.Eventually(t, func() bool { // a busy machine may be late with a token that ends so soon
			soon := bearer(t, "sub", "user:42", "scope", "subscribe", "exp", time.Now().Add(2*time.Second).Unix())
			status, _ := r.call(http.MethodPut, r.url+"/v1/connections/"+connection+"/token", "", "Authorization", soon)
			return status == http.StatusNoContent
		})
		testkit.Eventually(t, func() bool { return strings.Count(printed.String(), "lost:") == ends }) // its stream ends with that one
		publish(missed)
		r.prints(printed, `order.paid "`+missed+`"`)
		r.connected(1)
	}
	is.Equal(strings.Join(strings.Fields(printed.String()), " "),
		`order.paid "live" lost: the hub has ended the stream order.paid "missed" lost: the hub has ended the stream order.paid "missed again"`)
}
