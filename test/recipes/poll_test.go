//go:build unix

package recipes

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

const doorsPage = "docs/doors.md"

// A poll by curl, and the loop of the page, as they stand there.
func TestPolling(t *testing.T) {
	t.Parallel()
	needNode(t)
	needs(t, "curl")
	is := is.New(t)
	r := newRecipes(t)
	hubtest.WriteFiles(t, doorsPage, r.dir)
	publish := func(text string) {
		status, _ := r.hub(http.MethodPost, "/v1/tenants/acme/profiles/user:42/events", `{"type":"order.paid","payload":"`+text+`"}`)
		is.Equal(status, http.StatusAccepted)
	}
	ask := func(script string) (answer struct {
		Cursor string
		Events []struct{ Payload string }
	}) {
		out, err := r.command("sh", "-c", script).Output()
		is.NoErr(err)
		is.NoErr(json.Unmarshal(out, &answer))
		return answer
	}
	printed := r.start("node", "poll.mjs")
	r.connected(1)
	publish("first")
	r.prints(printed, `order.paid "first"`)
	publish("second")
	r.prints(printed, `order.paid "second"`)

	now := ask(hubtest.ShellBlocks(t, doorsPage)[0])
	publish("by curl")
	got := ask(`curl -sS --fail-with-body "$HUB/v1/poll?client=shell-1&cursor=` + now.Cursor + `" -H "Authorization: Bearer $TOKEN"`)
	is.Equal(got.Events[0].Payload, "by curl")
}
