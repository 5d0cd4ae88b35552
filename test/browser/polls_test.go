package browser

import (
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// An event that is not handled is not acknowledged by a poll either, and what follows is had all
// the same; it is acknowledged once it is handled.
func TestRealtimePollAcknowledgesWhatIsHandled(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	tab := h.live(asAlice+`, transport: "poll"`, `((usual) => { globalThis.setTimeout = (fn, ms) => usual(fn, ms === 100 ? 10 : ms); })(setTimeout)`) // which is how it waits for what is to be handled
	tab.run(`(c.on("a.b", ({ payload }) => payload !== "e2" && new Promise((done) => { globalThis.handle = done; })), 0)`)
	h.due("e1", "3s", "alice")
	tab.told("e1")
	h.due("e2", "3s", "alice")
	tab.told("e1", "e2")
	var reported []string
	for _, item := range h.reported("3s") {
		id, _, _ := strings.Cut(item, " ") // why depends on which poll it was sent by last
		reported = append(reported, id)
	}
	is.Equal(reported, []string{"e1", "e2"})
	h.due("e3", "1h", "alice")
	tab.told("e1", "e2", "e3")
	tab.run(`handle()`)
	h.acknowledged("e3", 1)
}

// A poll says which connection it comes back from, as another hub may take it. So does one that begins
// anew with a place.
func TestRealtimePollNamesItsConnection(t *testing.T) {
	h := newClientHub(t)
	const injected = `((usual) => {
		globalThis.polls = [];
		globalThis.fetch = (url, ...rest) => {
			polls.push(new URL(url, location).searchParams);
			return usual(url, ...rest);
		};
	})(fetch)`
	tab := h.live(asAlice+`, share: false, transport: "poll"`, injected)
	h.publish("a.b", 1)
	tab.told(1)
	tab.becomes(`polls.some((query) => query.get("previous") === is.connectionId && query.get("wait") === "25000ms")`)
	h.call("DELETE", "/v1/tenants/t1/connections?profile=alice", "") // also between two polls
	tab.becomes(`is.state === "displaced"`)
	tab.run(`(polls.length = 0, c.reconnect())`)
	tab.becomes(`polls.some((query) => query.get("previous") && query.get("cursor") && query.get("wait") === "0ms")`)
}

// Who polls too late for its connection goes on by another, and is active there.
func TestRealtimePollGoesOnByAnother(t *testing.T) {
	is := is.New(t)
	h := newClientHub(t)
	const injected = `((usual) => {
		globalThis.mayPoll = Promise.resolve();
		globalThis.fetch = async (url, ...rest) => {
			if (new URL(url, location).pathname === "/v1/poll") await mayPoll;
			return usual(url, ...rest);
		};
	})(fetch)`
	tab := h.live(asAlice+`, share: false, transport: "poll"`, injected)
	first := tab.run(`(globalThis.mayPoll = new Promise((go) => { globalThis.poll = go; }), is.connectionId)`)
	h.publish("a.b", 1)
	tab.told(1)
	eventually(t, func() bool {
		time.Sleep(200 * time.Millisecond) // or the hub refuses so many calls
		return len(h.connections()) == 0
	})
	h.publish("a.b", 2)
	tab.run(`poll()`)
	tab.told(1, 2)
	is.True(tab.run(`is.connectionId`) != first)
	is.Equal(tab.run(`Promise.all([c.touch(), is.reconnects])`), []any{true, 0.0})
}
