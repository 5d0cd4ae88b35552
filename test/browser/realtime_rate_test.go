package browser

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

// A page that watches each of many people by itself asks once for all of them, and
// stays within the rate that a client has by default.
func TestRealtimeManyWatchersAskOnce(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	tab := h.live(asAlice)
	tab.run(`(globalThis.people = {}, 0)`)
	tab.run(`(Array.from({length: 60}, (_, i) => c.presence.watch(["user:p" + i], (p) => { people[p.profile.id] = p.status; })), 0)`)
	tab.becomes(`Object.keys(people).length === 60 && Object.values(people).every((status) => status === "offline")`)
	asked := 0
	for _, line := range h.wire.Asked() {
		if strings.HasPrefix(line, "GET /v1/presence") {
			asked++
		}
	}
	is.True(asked >= 1)
	is.True(asked <= 3)
}
