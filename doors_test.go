package main

import (
	"flag"
	"strings"
	"sync"
	"testing"

	"realtimehub/internal/hubtest"
)

// doorFlag is by which door the clients of the hub's suite come.
var doorFlag = flag.String("door", "sse", "the door of the suite's clients: sse, websocket, poll, signalr-websocket, signalr-sse, signalr-poll")

// notBy are the tests of what a door does not have, and why. The suite runs them by other doors.
var notBy = []struct{ test, doors, why string }{
	{"TestUnnamedStream", "websocket poll signalr", "all its events have names"},
	{"TestResumeFromTheQuery", "websocket poll signalr", "it has one parameter"},
	{"TestReadySaysWhenToComeBack", "poll signalr", "that is said by its closing alone"},
	{"TestDisplacedStayAway", "poll signalr", "that is said by its closing alone"},
	{"TestMetricsMove", "poll", "each poll is counted"},
}

// suitesDoor is the door that the suite is run by. It skips a test of what that does not have.
func suitesDoor(t testing.TB) *hubtest.Door {
	t.Helper()
	door := hubtest.DoorOf(*doorFlag)
	if door == nil {
		t.Fatalf("-door %s: is none", *doorFlag)
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	for _, not := range notBy {
		kind, _, _ := strings.Cut(door.Name, "-")
		if not.test == name && (strings.Contains(not.doors, kind) || strings.Contains(not.doors, door.Name)) {
			t.Skip("not by this door: ", not.why)
		}
	}
	return door
}

// openAt opens a stream at a node by the hub's door.
func (h *testHub) openAt(t testing.TB, node *testHub, query string) *testClient {
	t.Helper()
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
