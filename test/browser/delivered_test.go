package browser

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	lifecycle "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
	"github.com/matryer/is"
)

// due publishes an event of the type a.b to people, who are to acknowledge it within a deadline.
func (h *clientHub) due(id, deadline string, people ...string) {
	h.t.Helper()
	h.call("POST", "/v1/events", fmt.Sprintf(`{"tenantId":"t1","id":%q,"type":"a.b","payload":%q,"deadline":%q,"target":{"kind":"profiles","profiles":%s}}`, id, id, deadline, mustJSON(people)))
}

// reported are those of whom the service has been told, as "id profile why", once it has been
// told of all who were to acknowledge something within a deadline from now.
func (h *clientHub) reported(deadline string) (list []string) {
	h.t.Helper()
	last := fmt.Sprint("last-", uuid.New()) // one of its own: the hub does not take an id twice
	h.due(last, deadline, "nobody")
	isLast := false
	eventually(h.t, func() bool {
		time.Sleep(50 * time.Millisecond) // or the hub refuses so many questions
		list = nil
		for _, item := range h.call("GET", "/v1/tenants/t1/outbox", "")["items"].([]any) {
			var told struct {
				Type string
				Data struct {
					Event    struct{ ID string }
					Profiles []struct {
						Profile struct{ ID string }
						Why     string
					}
				}
			}
			if err := json.Unmarshal(mustJSON(item), &told); err != nil {
				h.t.Fatal(err)
			}
			isLast = isLast || told.Data.Event.ID == last
			for _, p := range told.Data.Profiles {
				if told.Type == "event.undelivered" && p.Profile.ID != "nobody" {
					list = append(list, fmt.Sprint(told.Data.Event.ID, " ", p.Profile.ID, " ", p.Why))
				}
			}
		}
		return isLast
	})
	return list
}

// acknowledged waits until so many people have acknowledged an event.
func (h *clientHub) acknowledged(event string, people float64) {
	h.t.Helper()
	eventually(h.t, func() bool {
		time.Sleep(50 * time.Millisecond) // or the hub refuses so many questions
		counts, _ := h.call("GET", "/v1/tenants/t1/events/"+event+"/receipts", "")["counts"].(map[string]any)
		return counts["acknowledged"] == people
	})
}

// acks is how many acknowledgements the clients have sent.
func (h *clientHub) acks() (n int) {
	for _, line := range h.wire.Asked() {
		if strings.HasPrefix(line, "POST") && strings.HasSuffix(line, "/ack?tenant=t1&profile=user%3Aalice") {
			n++
		}
	}
	return n
}

func (c *clientTab) freeze() {
	c.h.t.Helper()
	c.run(`(document.addEventListener("freeze", () => { globalThis.isFrozen = true; }), 0)`)
	do(c.h.t, c.page, lifecycle.SetWebLifecycleState(lifecycle.SetWebLifecycleStateStateFrozen))
	c.becomes(`globalThis.isFrozen === true`)
}

// Whose page stands still while its stream is open has not handled an event.
func TestRealtimeFrozenIsReported(t *testing.T) {
	h := newClientHub(t)
	frozen := h.live(asAlice)
	handles := h.live(`tenant: "t1", profile: "bob"`)
	frozen.freeze()
	h.due("e1", "1h", "alice", "bob")
	handles.told("e1")
	h.acknowledged("e1", 1)
	h.due("e2", "2s", "alice")
	is := is.New(t)
	is.Equal(h.reported("2s"), []string{"e2 alice sentUnacknowledged"})
	is.Equal(len(h.connections()), 2)
	is.Equal(h.acks(), 0)
}

// Of two devices the one that wants an event acknowledges it; the other does not, whatever it
// acknowledges.
func TestRealtimeFilteredDevice(t *testing.T) {
	h := newClientHub(t)
	filters := h.live(asAlice + `, share: false, types: ["a.c"]`)
	wants := h.live(asAlice + `, share: false`)
	h.due("e1", "1h", "alice")
	wants.told("e1")
	h.acknowledged("e1", 1)
	wants.close()
	eventually(t, func() bool { return len(h.connections()) == 1 })
	h.due("e2", "2s", "alice")
	h.call("POST", "/v1/events", `{"tenantId":"t1","id":"c","type":"a.c","payload":"c","deadline":"1h","target":{"kind":"profile","profiles":["alice"]}}`)
	filters.told("c")
	h.acknowledged("c", 1)
	is.New(t).Equal(h.reported("2s"), []string{"e2 alice filtered"})
}

// Who wants no types at all is sent none, and the service is told why.
func TestRealtimeWantsNothing(t *testing.T) {
	h := newClientHub(t)
	tab := h.live(asAlice + `, types: []`)
	h.due("e1", "1s", "alice")
	is := is.New(t)
	is.Equal(h.reported("1s"), []string{"e1 alice filtered"})
	is.Equal(tab.run(`[got.length, is.reconnects]`), []any{0.0, 0.0})
	is.Equal(h.acks(), 0)
}

// Of two tabs that share a stream one handles nothing: while it is there the event is not
// acknowledged, and it is once that tab stands still or is gone.
func TestRealtimeTabHandlesNothing(t *testing.T) {
	h := newClientHub(t)
	leads := h.live(asAlice)
	other := h.live(asAlice)
	other.run(`(c.on("a.b", () => new Promise(() => {})), 0)`)
	h.due("e1", "2s", "alice")
	leads.told("e1")
	other.told("e1")
	is := is.New(t)
	is.Equal(h.reported("2s"), []string{"e1 alice sentUnacknowledged"})
	is.Equal(h.acks(), 0)
	eventually(t, func() bool { return leads.run(`c.cursor`) == other.run(`c.cursor`) }) // it is over

	other.freeze()
	h.due("e2", "1h", "alice")
	leads.told("e1", "e2")
	h.acknowledged("e2", 1)
	other.close()
	h.due("e3", "1h", "alice")
	leads.told("e1", "e2", "e3")
	h.acknowledged("e3", 1)
}

// A tab that is opened after an event has not handled it, though it goes on where the tab that has
// not either was.
func TestRealtimeTabOpenedLater(t *testing.T) {
	h := newClientHub(t)
	handlesNothing := h.live(asAlice)
	handlesNothing.run(`(c.on("a.b", () => new Promise(() => {})), 0)`)
	h.due("e1", "10s", "alice")
	handlesNothing.told("e1")
	later := h.live(asAlice)
	handlesNothing.close()
	later.becomes(`is.leader && is.state === "live"`)
	is := is.New(t)
	is.Equal(h.reported("10s"), []string{"e1 alice sentUnacknowledged"})
	is.Equal(h.acks(), 0)
	is.Equal(later.run(`got.length`), 0.0) // it is not told of what was before it
}

// What a listener failed to handle comes again, to it alone, and is acknowledged then.
func TestRealtimeHandlesLater(t *testing.T) {
	h := newClientHub(t, "REALTIME_ACK_TIMEOUT=200ms")
	tab := h.live(asAlice)
	tab.run(`(globalThis.tries = [], c.onError((error, { id }) => tries.push(error.message + " " + id)), 0)`)
	tab.run(`(c.on("a.b", async () => { if (tries.length < 2) throw new Error("not yet"); tries.push("handled"); }), 0)`)
	h.due("e1", "1h", "alice")
	tab.becomes(`tries.join() === "not yet e1,not yet e1,handled" && got.join() === "e1"`)
	h.acknowledged("e1", 1) // by the client, or where the stream was cut once more by resuming behind the event
	is.New(t).True(tab.run(`is.reconnects`).(float64) >= 2)
}

// A page that goes says what it has handled until then.
func TestRealtimeAcknowledgesAsItGoes(t *testing.T) {
	h := newClientHub(t)
	tab := h.live(asAlice)
	h.due("e1", "1h", "alice")
	tab.told("e1")
	tab.run(`(c.on("a.b", (e) => { if (e.payload === "e2") location.href = "/readyz"; }), 0)`)
	eventually(t, func() bool { return h.acks() == 1 })
	h.due("e2", "1h", "alice")
	eventually(t, func() bool { return h.acks() == 2 })
}

// Who is active while an acknowledgement waits to be taken says so with it, in no call of its own,
// and again where it is not taken.
func TestRealtimeActiveWithAcknowledgement(t *testing.T) {
	h := newClientHub(t, "REALTIME_IDLE_TIMEOUT=1s")
	tab := h.live(asAlice)
	tab.run(`(() => {
		const send = fetch, now = performance.now.bind(performance);
		Object.assign(globalThis, { sent: [], isAway: true, later: 0, touches: () => sent.filter((body) => body === "touch").length });
		globalThis.fetch = async (address, init) => {
			if (!/ack|touch/.test(address)) return send(address, init);
			sent.push(init.body ?? "touch");
			return isAway ? new Response("", { status: 503 }) : send(address, init);
		};
		performance.now = () => now() + later;
	})()`)
	h.due("e1", "1h", "alice")
	tab.becomes(`sent.length > 0`)
	tab.becomes(isAway)
	touches := tab.run(`(later = 30_000, touches())`) // it is told of three times a minute
	do(t, tab.page, chromedp.MouseClickXY(10, 10))
	tab.becomes(`sent.at(-1).includes("active")`)
	tab.run(`isAway = false`)
	tab.becomes(isActiveAgain)
	is := is.New(t)
	is.Equal(tab.run(`touches()`), touches)
	is.Equal(h.acks(), 1)
}
