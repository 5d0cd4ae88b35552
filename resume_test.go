package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
)

// back opens a stream as a client does that has seen a cursor.
func (h *testHub) back(t testing.TB, cursor, query string) *testClient {
	t.Helper()
	return h.open(t, query+"&cursor="+cursor)
}

// resume is what hub.ready says of it.
func (c *testClient) resume(t testing.TB) string {
	t.Helper()
	var ready struct{ Resume string }
	if err := json.Unmarshal([]byte(c.Ready.Data), &ready); err != nil {
		t.Fatal(err)
	}
	return ready.Resume
}

const meQuery = "tenant=acme&profile=me"

// What a client missed comes in order, with its ids, before anything new; and
// only what it is a target of, filtered as it asks now.
func TestResume(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, meQuery)
	is.Equal(c.resume(t), "fresh")
	is.Equal(c.Ready.ID, c.Cursor)
	c.close()
	var cursors []string
	for i, target := range []string{
		`{"kind":"profile","profiles":["me"]}`, `{"kind":"profile","profiles":["you"]}`, `{"kind":"tenant"}`,
		`{"kind":"profiles","profiles":["you","me"]}`, `{"kind":"tenant","exclude":{"profiles":["me"]}}`,
	} {
		cursors = append(cursors, h.publish(t, "acme", []string{"a.b", "c.d"}[i%2], target, fmt.Sprint(i))["cursor"].(string))
	}
	again := h.back(t, c.Cursor, meQuery)
	is.Equal(again.resume(t), "complete")
	is.Equal(again.Ready.ID, c.Cursor) // its own: cut now, it resumes there
	for _, i := range []int{0, 2, 3} {
		event := again.next(t)
		is.Equal(string(openEnvelope(t, event).Payload), fmt.Sprint(i))
		is.Equal(event.ID, cursors[i])
	}
	filtered, last := h.back(t, c.Cursor, meQuery+"&types=c.*,test.marker&named=false"), h.back(t, cursors[4], meQuery)
	is.Equal(last.resume(t), "complete")
	is.Equal(h.payloads(t, "acme", again, filtered, last), []string{"", "3", ""})
}

// A cursor that is none, or another's, or too old, is said to be so, and where
// things go on; the ready before it has no id, so that the gap is not overlooked.
func TestGaps(t *testing.T) {
	h := newTestHub(t, keeping(3))
	var cursors []string
	for i := range 5 {
		cursors = append(cursors, h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i))["cursor"].(string))
	}
	foreign := h.publish(t, "other", "a.b", `{"kind":"tenant"}`, "0")["cursor"].(string)
	for _, c := range []struct{ name, cursor, reason, from, follow string }{
		{"expired", cursors[0], "expired", cursors[1], "2 3 4"},
		{"ofAnotherTenant", foreign, "unknown", cursors[4], ""},
		{"ofAnotherLife", "0123456789abcdef-3", "unknown", cursors[4], ""},
		{"nonsense", "%F0%9F%92%A5", "unknown", cursors[4], ""},
		{"long", strings.Repeat("9", 4000), "unknown", cursors[4], ""},
		{"tooNew", cursors[4] + "0", "unknown", cursors[4], ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			client := h.back(t, c.cursor, meQuery)
			is.Equal(client.resume(t), "partial")
			is.Equal(client.Ready.ID, "")
			is.Equal(client.Cursor, c.from)
			gap := client.next(t)
			is.Equal(gap.Type, "hub.gap")
			is.Equal(gap.ID, c.from)
			is.Equal(gap.Data, fmt.Sprintf(`{"reason":%q,"cursor":%q}`, c.reason, c.from))
			is.Equal(h.replayed(t, client), c.follow)
		})
	}
}

// replayed is what a client receives before an event that is not stored, and
// takes no place.
func (h *testHub) replayed(t testing.TB, c *testClient) string {
	t.Helper()
	status, _ := h.post(t, "/v1/events", fmt.Sprintf(
		`{"tenantId":"acme","type":%q,"payload":0,"target":{"kind":"connection","connectionId":%q}}`, markerType, c.ConnectionID))
	if status != http.StatusAccepted {
		t.Fatal(status)
	}
	var words []string
	for {
		event := c.next(t)
		switch {
		case event.Type == markerType:
			return strings.Join(words, " ")
		case strings.HasPrefix(event.Type, "hub."):
			words = append(words, event.Type)
		default:
			words = append(words, string(openEnvelope(t, event).Payload))
		}
	}
}

// Who left cannot replay what was said in a room, not even from before; who joined
// does not see what was said before; who was away in between gets the rest.
func TestReplayAndMembership(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	put := func(members string) {
		t.Helper()
		status, _ := h.do(t, http.MethodPut, "/v1/tenants/acme/conversations/r/members", `{"members":[`+members+`]}`)
		is.Equal(status, http.StatusNoContent)
	}
	say := func(what string) {
		t.Helper()
		h.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, what)
	}
	put(`"stays","leaves","returns"`)
	c := h.open(t, meQuery)
	say("1")
	put(`"stays"`)
	say("2")
	put(`"stays","returns","joins"`)
	say("3")
	for profile, want := range map[string]string{"stays": "1 2 3", "leaves": "", "returns": "1 3", "joins": "3"} {
		client := h.back(t, c.Cursor, "tenant=acme&profile="+profile)
		is.Equal(client.resume(t), "complete") // whoever it is
		is.Equal(h.replayed(t, client), want)  // profile
	}
}

// What another service owns is asked as of now; and nothing is lost when nobody
// was connected while it was said.
func TestReplayAndMembershipService(t *testing.T) {
	is := is.New(t)
	stub := &rosterStub{rooms: map[string]*room.Roster{}}
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Resolver = stub })
	stub.set("r", "me", "you")
	c := h.open(t, meQuery)
	c.close()
	h.empty(t, "acme")
	h.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "1")
	me := h.back(t, c.Cursor, meQuery)
	is.Equal(h.replayed(t, me), "1")
	stub.set("r", "you")
	left := h.back(t, c.Cursor, meQuery)
	is.Equal(h.replayed(t, left), "")
	you := h.back(t, c.Cursor, "tenant=acme&profile=you")
	is.Equal(h.replayed(t, you), "1")
}

// A long replay comes in one connection, as the client takes it: the queue never
// holds all of it; what is published meanwhile follows, each in its place.
func TestDeepReplay(t *testing.T) {
	stored, missed := 100_000, 10_000
	if testing.Short() {
		stored, missed = 5000, 2500 // still more than is read at once
	}
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprint("plain=", plain), func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) {
				hub.Plain = plain
				limits := testLimits
				limits.Events, limits.Bytes = 0, 0
				hub.Log = history.NewMemory(limits)
			})
			c := h.open(t, meQuery)
			c.close()
			var lines strings.Builder
			for i := range stored {
				to := "me"
				if i%(stored/missed) != 0 {
					to = fmt.Sprint("other-", i%100)
				}
				fmt.Fprintf(&lines, `{"tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"profile","profiles":[%q]}}`+"\n", i, to)
			}
			var want []int // payloads
			order, once := h.lines(t, lines.String(), stored)
			for _, i := range order {
				if i%(stored/missed) == 0 {
					want = append(want, i)
				}
			}
			start := time.Now()
			again := h.back(t, c.Cursor, meQuery)
			most := int64(0)
			var got []int
			for i := range missed {
				if i == missed/2 {
					h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, `"new"`)
				}
				payload, err := strconv.Atoi(string(openEnvelope(t, again.next(t)).Payload))
				is.NoErr(err)
				got = append(got, payload)
				most = max(most, h.streams.Engine().Owed())
			}
			t.Logf("%d of %d in %v", missed, stored, time.Since(start))
			if !once {
				slices.Sort(got)
				slices.Sort(want)
			}
			is.Equal(got, want)
			is.Equal(string(openEnvelope(t, again.next(t)).Payload), `"new"`)
			is.True(most < 4*chunkBytes) // never the whole
			is.Equal(h.payloads(t, "acme", again), []string{""})
		})
	}
}

// So much of a history is read at once, and of what is not stored held for who catches up.
const (
	chunkBytes = 64 << 10
	maxHeld    = 256 << 10
)

// lines publishes NDJSON, and again what a broker that is slow did not confirm. It returns
// the lines in the order of their places, of which it is sure where each was published once.
func (h *testHub) lines(t testing.TB, lines string, accepted int) (order []int, once bool) {
	t.Helper()
	all := strings.Split(strings.TrimSpace(lines), "\n")
	for i := range all {
		order = append(order, i)
	}
	ids, query, taken := map[int]string{}, "", 0
	for sent := slices.Clone(order); len(sent) > 0; query = "?results=all" {
		var body strings.Builder
		for _, i := range sent {
			line := all[i]
			if id, again := ids[i]; again {
				line = fmt.Sprintf(`{"id":%q,`, id) + line[1:]
			}
			body.WriteString(line + "\n")
		}
		res, err := h.client.Post(h.URL+"/v1/events"+query, "application/x-ndjson", strings.NewReader(body.String()))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var unconfirmed []int
		for answers := json.NewDecoder(res.Body); answers.More(); {
			var a struct {
				Line      int
				Code, ID  string
				Duplicate bool
				Accepted  *int
			}
			if err := answers.Decode(&a); err != nil || a.Code != "" && a.Code != "Unconfirmed" {
				t.Fatalf("%+v, %v", a, err)
			}
			switch {
			case a.Accepted != nil:
				taken += *a.Accepted
			case a.Code != "":
				i := sent[a.Line-1]
				ids[i], unconfirmed = a.ID, append(unconfirmed, i)
			case !a.Duplicate: // it was not stored before, so it follows all others
				i := sent[a.Line-1]
				order = append(slices.DeleteFunc(order, func(k int) bool { return k == i }), i)
			}
		}
		sent = unconfirmed
	}
	if taken != accepted {
		t.Fatalf("%d accepted, of %d", taken, accepted)
	}
	return order, len(ids) == 0
}

// What is not stored keeps its place among what is while a stream catches up; too
// much of it is dropped, and said to be.
func TestEphemeralsDuringReplay(t *testing.T) {
	alone(t, "it pauses one hub's log")
	for _, c := range []struct {
		name   string
		events int
		want   string
	}{{"few", 3, "1 e e e 2 3"}, {"tooMany", maxHeld/100 + 1, "1 hub.gap 2 3"}} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			log := &pausingLog{Memory: history.NewMemory(testLimits), entered: make(chan bool), goOn: make(chan bool)}
			h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Log = log; hub.StreamBuffer = 3 * chunkBytes })
			start := h.open(t, meQuery)
			start.close()
			h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			log.pause.Store(true)
			client := h.back(t, start.Cursor, meQuery)
			<-log.entered // it is behind, and reads
			for range c.events {
				h.post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":"e","target":{"kind":"tenant"},"ephemeral":true}`)
			}
			h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")
			h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "3")
			log.pause.Store(false)
			close(log.goOn)
			got := strings.ReplaceAll(h.payloads(t, "acme", client)[0], `"e"`, "e")
			is.Equal(got, c.want)
			stats := h.Stats()
			is.Equal(int(stats.Dropped[delivery.DropBehind]), c.events-strings.Count(c.want, "e")) // each that did not come
			is.Equal(int(stats.Gaps[delivery.GapSlow]), strings.Count(c.want, "hub.gap"))
			is.True(stats.Replayed.Sum == 3 || stats.Replayed.Sum == 4) // the marker may find it still behind
		})
	}
}

// A quiet stream's place moves on with its heartbeats, so that its client does not come
// back from far behind.
func TestQuietStreamsMoveOn(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, keeping(20), func(hub *HubConfig, _ *PresenceConfig) { hub.Heartbeat = 50 * time.Millisecond })
	quiet, filtered := h.open(t, meQuery), h.open(t, "tenant=acme&profile=you&types=none.*,test.marker")
	var head string
	for range 100 {
		head = h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["you"]}`, "0")["cursor"].(string)
	}
	for query, c := range map[string]*testClient{meQuery: quiet, "tenant=acme&profile=you&types=none.*,test.marker": filtered} {
		for c.Reader.LastEventID() != head { // until a heartbeat has come
			is.Equal(h.replayed(t, c), "")
		}
		c.close()
		again := h.back(t, c.Reader.LastEventID(), query)
		is.Equal(again.resume(t), "complete")
		is.Equal(h.replayed(t, again), "")
		again.close()
	}
	// Nor after a replay in which there was nothing for it.
	again := h.back(t, quiet.Reader.LastEventID(), meQuery)
	is.Equal(h.replayed(t, again), "")
	last := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["you"]}`, "0")["cursor"]
	resumed := h.back(t, again.Reader.LastEventID(), meQuery)
	for resumed.Reader.LastEventID() != last { // until a heartbeat has come
		is.Equal(h.replayed(t, resumed), "")
	}
}

// A client that is cut as slow comes back to all it missed.
func TestSlowIsNotLost(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.StreamBuffer = 64 << 10 })
	c := h.open(t, meQuery)
	const events = 600
	payload := func(i int) string { return fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", 20<<10)) }
	for i := range events {
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, payload(i)) // 12 MB that nobody reads
	}
	n, last := 0, c.Cursor
	for {
		event, err := c.read()
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) { // it was not read for so long that the last words were given up; TCP resets a socket whose own input is unread
			break
		}
		is.NoErr(err)
		if event.Type == "hub.closing" {
			is.True(strings.Contains(event.Data, `"reason":"slow"`))
			break
		}
		is.Equal(string(openEnvelope(t, event).Payload), payload(n))
		last = event.ID
		n++
	}
	is.True(n < events)
	eventually(t, func() bool { // a socket waits for its client's end
		slow := int64(0)
		for _, node := range h.nodes {
			slow += node.Stats().Closes[delivery.CloseSlow]
		}
		return slow == 1
	})
	again := h.back(t, last, meQuery)
	is.Equal(again.resume(t), "complete")
	for ; n < events; n++ {
		is.Equal(string(openEnvelope(t, again.next(t)).Payload), payload(n))
	}
}

// Services read the same history: whole envelopes, page by page.
func TestHistory(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, keeping(3))
	read := func(query string) (payloads []string, cursor string, gap bool) {
		t.Helper()
		var answer map[string]any
		eventually(t, func() bool { // a broker that is slow is asked again
			var status int
			status, answer = h.do(t, http.MethodGet, "/v1/tenants/acme/events?"+query, "")
			return status == http.StatusOK
		})
		for _, e := range answer["events"].([]any) {
			payloads = append(payloads, fmt.Sprint(e.(map[string]any)["payload"]))
		}
		return payloads, answer["cursor"].(string), answer["gap"].(bool)
	}
	none, start, gap := read("")
	is.Equal(none, nil)
	is.Equal(gap, false)
	is.Equal(h.Stats().Tenants, 0) // a read makes no tenant
	first := h.publish(t, "acme", "a.b", `{"kind":"profiles","profiles":["user:1","bot:2"],"exclude":{"profiles":["me"],"connectionIds":["01a20b6b-b9ee-789c-bf01-260aa0b28d5c"]}}`, "0")
	_, answer := h.do(t, http.MethodGet, "/v1/tenants/acme/events?after="+start, "")
	events, err := json.Marshal(answer["events"])
	is.NoErr(err)
	is.Equal(string(events), fmt.Sprintf(`[{"id":%q,"payload":0,"target":{"exclude":{"connectionIds":["01a20b6b-b9ee-789c-bf01-260aa0b28d5c"],"profiles":[{"id":"me","type":"user"}]},`+
		`"kind":"profiles","profiles":[{"id":"1","type":"user"},{"id":"2","type":"bot"}]},"tenantId":"acme","timestamp":%q,"type":"a.b"}]`, first["id"], first["timestamp"]))
	for i := range 4 {
		h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i+1))
	}
	two, cursor, gap := read("limit=2")
	is.Equal(two, []string{"2", "3"})
	is.Equal(gap, false)
	rest, head, gap := read("after=" + cursor)
	is.Equal(rest, []string{"4"})
	is.Equal(gap, false)
	all, _, gap := read("after=" + start)
	is.Equal(all, []string{"2", "3", "4"})
	is.Equal(gap, true) // 0 and 1 are gone
	none, at, gap := read("after=nonsense")
	is.Equal(none, nil)
	is.Equal(at, head)
	is.Equal(gap, true)
	status, answer := h.do(t, http.MethodGet, "/v1/tenants/acme/events?limit=0", "")
	is.Equal(status, http.StatusBadRequest)
	is.Equal(answer["code"], "InvalidField")
}

// An id that comes again is a duplicate with the first's answer; in a batch only
// the others go.
func TestDuplicates(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, meQuery)
	event := func(id, payload string) string {
		return fmt.Sprintf(`{"id":%q,"tenantId":"acme","type":"a.b","target":{"kind":"tenant"},"payload":%s}`, id, payload)
	}
	_, first := h.post(t, "/v1/events", event("a", "1"))
	is.Equal(first["duplicate"], false)
	is.Equal(first["connections"], 1.0)
	status, again := h.post(t, "/v1/events", event("a", "2")) // its content is not compared
	is.Equal(status, http.StatusAccepted)
	is.Equal(again, map[string]any{"id": "a", "timestamp": first["timestamp"], "cursor": first["cursor"], "connections": 0.0, "duplicate": true})
	status, batch := h.post(t, "/v1/events/batch", `{"events":[`+event("b", "3")+`,`+event("a", "4")+`,`+event("b", "5")+`,`+event("c", "6")+`]}`)
	is.Equal(status, http.StatusAccepted)
	var duplicates []any
	for _, r := range batch["results"].([]any) {
		duplicates = append(duplicates, r.(map[string]any)["duplicate"])
	}
	is.Equal(duplicates, []any{false, true, true, false})
	ids := []sse.Event{}
	ids = append(ids, h.received(t, "acme", c)[0]...)
	is.Equal(len(ids), 3)
	for i, want := range []string{"1", "3", "6"} {
		is.Equal(string(openEnvelope(t, ids[i]).Payload), want)
	}
}

// pausingLog waits within Read, as one does that asks a broker.
type pausingLog struct {
	*history.Memory
	pause         atomic.Bool
	entered, goOn chan bool
}

func (l *pausingLog) Read(ctx context.Context, tenant string, q history.Query) (history.Page, error) {
	if l.pause.Load() {
		l.entered <- true
		<-l.goOn
	}
	return l.Memory.Read(ctx, tenant, q)
}

// rosterStub owns membership, in conversations.
type rosterStub struct {
	mu    sync.Mutex
	rooms map[string]*room.Roster
}

func (s *rosterStub) set(r string, members ...string) {
	roster := &room.Roster{}
	for _, id := range members {
		roster.Members = append(roster.Members, event.Profile{Type: "user", ID: id})
	}
	slices.SortFunc(roster.Members, event.CompareProfiles)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rooms[r] = roster
}

func (s *rosterStub) Resolve(_ context.Context, _ string, room event.Room) (*room.Roster, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[room.ID], nil
}

// empty waits until a tenant has no stream.
func (h *testHub) empty(t testing.TB, tenant string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for len(h.streams.Connections(tenant, nil)) > 0 {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("streams are left")
		}
	}
}

// pausedLog waits before it reads.
type pausedLog struct {
	*history.Memory
	reads, gate chan struct{}
}

func (l *pausedLog) Read(ctx context.Context, tenant string, q history.Query) (history.Page, error) {
	l.reads <- struct{}{}
	<-l.gate
	return l.Memory.Read(ctx, tenant, q)
}

// Who joins a room while what it missed is read has what is said there from then on.
func TestJoinedWhileItCatchesUp(t *testing.T) {
	alone(t, "it has a log of its own")
	is := is.New(t)
	log := &pausedLog{history.NewMemory(testLimits), make(chan struct{}, 8), make(chan struct{})}
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Log = log })
	first := h.open(t, meQuery)
	first.close()
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	comes := make(chan *testClient, 1)
	go func() { comes <- h.back(t, first.Cursor, meQuery) }()
	<-log.reads
	is.NoErr(h.members.AddMember(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "r"}, event.Profile{Type: "user", ID: "me"}))
	h.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "2")
	close(log.gate)
	back := <-comes
	is.Equal(string(openEnvelope(t, back.next(t)).Payload), "1")
	is.Equal(string(openEnvelope(t, back.next(t)).Payload), "2")
}
