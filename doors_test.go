package main

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/settings"
	"realtimehub/internal/tcp"
)

// doorFlag is by which door the clients of the hub's suite come.
var doorFlag = flag.String("door", "sse", "the door of the suite's clients: sse, websocket, poll, signalr-websocket, signalr-sse, signalr-poll")

// notBy are the tests of what doors or transports do not have, and why: the suite runs them by others.
var notBy = []struct{ doors, why, tests string }{
	{"websocket poll signalr", "all its events have names", "TestUnnamedStream"},
	{"websocket poll signalr", "it has one parameter to resume by", "TestResumeFromTheQuery"},
	{"poll signalr", "only its closing says when to come back", "TestReadySaysWhenToComeBack TestDisplacedStayAway"},
	{"signalr", "its clients know no cursor but their events'", "TestQuietStreamsMoveOn"},
	{"signalr-poll", "its session takes more of a share", "TestStateOfOtherHubs"},
	{"signalr-poll signalr-websocket", "its handshake takes more of a share", "TestForgottenStaysAreRememberedAsForgotten TestAdjustPastAShare"},
	{"poll", "each poll is counted", "TestMetricsMove TestMetricsOfNoise TestMetricsOfGapsAndSlowness TestMetricsOfDuties"},
	{"poll", "each poll says what it wants", "TestAdjustThroughAnotherHub TestAdjustPastAShare TestTypesFilterAndPatch"},
	{"poll", "a gap is told before all events of its answer", "TestClusterRoomsThatNobodyKnows TestWhatAnOperatorDeleted"},
	{"poll", "what is not stored comes while one is open", "TestEphemeralsDuringReplay TestContractIsWhatHappens"},
	{"poll", "between two polls nothing is owed", "TestSlowIsNotLost"},
	{"poll", "the test's log has nothing for who asks again", "TestTheHistoryBeginsAnewWhileSomebodyComes"},
}

// suitesDoor is the door that the suite is run by. It skips a test of what that does not have.
func suitesDoor(t testing.TB) *hubtest.Door {
	t.Helper()
	door := hubtest.DoorOf(*doorFlag)
	if door == nil {
		t.Fatalf("-door %s: is none", *doorFlag)
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	for _, not := range notBy {
		doors := strings.Fields(not.doors)
		if slices.Contains(strings.Fields(not.tests), test) && (slices.Contains(doors, door.Name) || slices.Contains(doors, door.Transport)) {
			t.Skip("not by this door: ", not.why)
		}
	}
	return door
}

// openAt opens a stream at a node by the hub's door.
func (h *testHub) openAt(t testing.TB, node *testHub, query string) *testClient {
	t.Helper()
	if h.door.Name == "poll" && strings.Contains(query, "ack=true") {
		t.Skip("not by this door: the next poll acknowledges by itself")
	}
	h.polling.settle(t, h) // or it is not told to one that polls that this one takes its place
	from := node.fromOutside()
	from.Door = h.door
	c := &testClient{from.Open(t, query)}
	h.polling.add(c)
	return c
}

// pollers are a hub's clients that poll.
type pollers struct {
	mu  sync.Mutex
	all []*testClient // guarded by mu
}

func (p *pollers) add(c *testClient) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, busy := c.Asked(); busy || !at.IsZero() {
		p.all = append(p.all, c)
	}
}

// settle waits until each has a poll open: what is not stored comes to no other.
func (p *pollers) settle(t testing.TB, h *testHub) {
	t.Helper()
	p.mu.Lock()
	all := p.all
	p.mu.Unlock()
	for _, c := range all {
		eventually(t, func() bool {
			asked, busy := c.Asked()
			_, conn := h.holder(c.ConnectionID)
			if busy || asked.IsZero() || conn == nil {
				return !busy
			}
			_, at := conn.Asked()
			return !at.Before(asked)
		})
	}
}

// By each door a stream is the same, in clear text and over TLS. The whole suite is run by one with
// -door.
func TestDoors(t *testing.T) {
	for _, door := range hubtest.Doors {
		for _, over := range []string{"", " over TLS"} {
			t.Run(door.Name+over, func(t *testing.T) {
				t.Parallel()
				h := newTestHub(t, keeping(100), func(hub *HubConfig, presence *PresenceConfig) {
					hub.StreamBuffer = 64 << 10
					presence.Audience, presence.Grace = settings.AudienceTenant, 0
				})
				h.door = door
				if over != "" {
					h.speakTLS(t)
				}
				for _, tc := range []struct {
					name string
					test func(t *testing.T, h *testHub)
				}{
					{"targets", targetsByDoor}, {"order and replay", replayByDoor}, {"gaps", gapsByDoor}, {"presence", presenceByDoor},
					{"typing", typingByDoor}, {"expiry", expiryByDoor}, {"kick", kickByDoor}, {"slow", slowByDoor}, {"drain", drainByDoor},
				} {
					t.Run(tc.name, func(t *testing.T) { tc.test(t, h) })
				}
			})
		}
	}
}

// speakTLS has a hub's clients speak TLS to it, and HTTP/1.1, from now on.
func (h *testHub) speakTLS(t *testing.T) {
	t.Helper()
	for _, node := range h.nodes { // one of them is h, but on a cluster
		listener, err := tcp.Listen(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		node.Server.Close()
		node.Server = &httptest.Server{Listener: tcp.Secure(listener), Config: &http.Server{Handler: node.Handler, ConnContext: tcp.ConnContext}}
		node.Server.StartTLS()
		node.URL, node.client = node.Server.URL, node.Server.Client()
	}
	first := h.nodes[0]
	h.Server, h.URL, h.client = first.Server, first.URL, first.client
}

// closes reads the last words, whose reason it checks, and the end.
func (c *testClient) closes(t testing.TB, reason string) {
	t.Helper()
	if closing := c.until(t, "hub.closing"); !strings.Contains(closing.Data, `"reason":"`+reason+`"`) {
		t.Fatalf("it closes with %s", closing.Data)
	}
	if event, err := c.read(); err == nil {
		t.Fatalf("after its last words comes %+v", event)
	}
}

// Who is a target gets an event, and nobody else: in no other tenant either.
func targetsByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	h.changes(t, http.MethodPut, "/v1/tenants/targets/conversations/r/members", `{"members":["a"]}`)
	h.changes(t, http.MethodPut, "/v1/tenants/targets/groups/r/members", `{"members":["b"]}`)
	a, b := h.open(t, "tenant=targets&profile=a&presence=none"), h.open(t, "tenant=targets&profile=b&presence=none&types=a.*,test.*")
	other := h.open(t, "tenant=elsewhere&profile=a&presence=none")
	for i, target := range []string{
		`{"kind":"profile","profiles":["a"]}`, `{"kind":"profiles","profiles":["a","b"]}`, `{"kind":"tenant"}`, `{"kind":"conversation","conversationId":"r"}`,
		`{"kind":"group","groupId":"r"}`, `{"kind":"tenant","exclude":{"profiles":["a"]}}`,
	} {
		h.publish(t, "targets", "a.b", target, fmt.Sprint(i))
	}
	h.publish(t, "targets", "c.d", `{"kind":"tenant"}`, "6")
	is.Equal(h.payloads(t, "targets", a, b), []string{"0 1 2 3 6", "1 2 4 5"})
	h.publish(t, "targets", "a.b", `{"kind":"connection","connectionId":"`+a.ConnectionID+`"}`, "7")
	is.Equal(string(openEnvelope(t, a.next(t)).Payload), "7")
	is.Equal(h.payloads(t, "targets", b), []string{""})
	is.Equal(h.payloads(t, "elsewhere", other), []string{""})
	_, row := h.do(t, http.MethodGet, "/v1/tenants/targets/connections/"+a.ConnectionID, "")
	is.Equal(row["transport"], h.door.Transport)
}

// Events come in their order; who was away gets what was missed, once and before what is new.
func replayByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	const query = "tenant=replay&profile=me&presence=none"
	c := h.open(t, query)
	is.Equal(c.resume(t), "fresh")
	batch := func(from int) (words string) {
		var events []string
		for i := range 20 {
			events = append(events, eventJSON("replay", "a.b", `{"kind":"tenant"}`, fmt.Sprint(from+i)))
			words += fmt.Sprint(from+i, " ")
		}
		h.accepted(t, "/v1/events/batch", `{"events":[`+strings.Join(events, ",")+`]}`)
		return strings.TrimSpace(words)
	}
	live := batch(0)
	is.Equal(h.payloads(t, "replay", c), []string{live})
	c.close()
	missed := batch(20)
	again := h.back(t, c.Reader.LastEventID(), query)
	is.Equal(again.resume(t), "complete")
	more := batch(40)
	is.Equal(h.payloads(t, "replay", again), []string{missed + " " + more})
	last := h.back(t, again.Reader.LastEventID(), query)
	is.Equal(last.resume(t), "complete")
	is.Equal(h.payloads(t, "replay", last), []string{""})
}

// What is missed for good is said, and where things go on.
func gapsByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	const query = meQuery + "&presence=none&types=none,test.marker"
	first := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "0")["cursor"].(string)
	one := eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")
	h.accepted(t, "/v1/events/batch", `{"events":[`+strings.Repeat(one+",", 99)+one+`]}`)
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")
	for cursor, reason := range map[string]string{first: "expired", "nonsense": "unknown"} {
		c := h.back(t, cursor, query)
		is.Equal(c.resume(t), "partial")
		is.Equal(c.Ready.ID, "")
		gap := c.next(t)
		is.Equal(gap.Type, "hub.gap")
		is.Equal(gap.Data, fmt.Sprintf(`{"reason":%q,"cursor":%q}`, reason, gap.ID))
		is.Equal(h.replayed(t, c), "") // by what is not stored: what is would drive out more
	}
}

func presenceByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	seer := h.open(t, "tenant=presence&profile=seer&presence=me")
	h.settle(t)
	c := h.open(t, "tenant=presence&profile=me&types=none")
	online := seer.next(t)
	is.Equal(online.Type, "presence.online")
	is.True(strings.Contains(online.Data, `"id":"me"`))
	h.do(t, http.MethodDelete, "/v1/tenants/presence/connections/"+c.ConnectionID, "")
	is.Equal(seer.next(t).Type, "presence.offline")
}

func typingByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	h.changes(t, http.MethodPut, "/v1/tenants/typing/conversations/talk/members", `{"members":["me","you"]}`)
	c := h.open(t, "tenant=typing&profile=me&presence=none")
	for _, state := range []string{"started", "stopped"} {
		status, _ := h.post(t, "/v1/conversations/talk/typing?tenant=typing&profile=you", `{"state":"`+state+`"}`)
		is.Equal(status, http.StatusAccepted)
		is.Equal(c.next(t).Type, "typing."+state)
	}
}

// A stream ends with its token, and says so before.
func expiryByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	c := h.open(t, "tenant=expiry&profile=me&presence=none")
	h.settle(t)
	node, conn := h.holder(c.ConnectionID)
	node.streams.Prolong(conn, time.Now().Add(2*time.Second)) // a poll tells both at its end
	is.Equal(c.next(t).Type, "hub.expiring")
	c.closes(t, "expired")
}

func kickByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	c := h.open(t, "tenant=kick&profile=me&presence=none")
	status, _ := h.do(t, http.MethodDelete, "/v1/tenants/kick/connections/"+c.ConnectionID, "")
	is.Equal(status, http.StatusNoContent)
	c.closes(t, "kicked")
	is.Equal(len(listed(t, h, "/v1/tenants/kick/connections")), 0)
}

// Who does not read is cut, and gets all the same once they do, in order and once. Who polls is
// never slow: between two polls nothing is owed.
func slowByDoor(t *testing.T, h *testHub) {
	is := is.New(t)
	const query, events = "tenant=slow&profile=me&presence=none", 60
	c := h.open(t, query)
	payload := func(i int) string { return fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", 20<<10)) }
	for i := range events {
		h.publish(t, "slow", "a.b", `{"kind":"tenant"}`, payload(i))
	}
	cuts, last := 0, c.Cursor
	for n := 0; n < events; {
		event, err := c.read()
		if err != nil || event.Type == "hub.closing" {
			is.True(err != nil || strings.Contains(event.Data, `"reason":"slow"`))
			cuts++
			c = h.back(t, last, query)
			continue
		}
		is.Equal(string(openEnvelope(t, event).Payload), payload(n))
		last = event.ID
		n++
	}
	is.Equal(cuts > 0, h.door.Name != "poll")
	is.Equal(h.payloads(t, "slow", c), []string{""})
}

// A hub that ends says so to those who are there.
func drainByDoor(t *testing.T, h *testHub) {
	c := h.open(t, "tenant=drain&profile=me&presence=none")
	h.settle(t)
	node, _ := h.holder(c.ConnectionID)
	var draining sync.WaitGroup
	draining.Go(func() { node.streams.Drain(t.Context(), 0) })
	c.closes(t, string(delivery.CloseDrain))
	draining.Wait()
}

// What is left out is there.
func TestNotBy(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	tests := ""
	for _, file := range files {
		tests += hubtest.ReadFile(t, file)
	}
	for _, not := range notBy {
		for _, test := range strings.Fields(not.tests) {
			if !strings.Contains(tests, "\nfunc "+test+"(") {
				t.Errorf("there is no %s", test)
			}
		}
	}
}
