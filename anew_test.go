package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// anewLog has the history begin anew at some step of whoever asks it, after which it has
// three events.
type anewLog struct {
	*history.Memory
	sink history.Sink
	now  history.Epoch
	next history.Cursor
	at   string // the step
}

func (l *anewLog) Follow(s history.Sink) { l.sink = s }

// begin begins it; the sink is told at once.
func (l *anewLog) begin(step string) {
	if step == l.at {
		l.at, l.now = "", l.next.Epoch
		l.sink.Lost("acme", l.next)
	}
}

func (l *anewLog) Attach(context.Context, string) (history.Cursor, error) {
	head := history.Cursor{Epoch: l.now, Seq: 10}
	if l.now == l.next.Epoch {
		head = l.next
	}
	l.begin("attach")
	return head, nil
}

func (l *anewLog) Detach(string) {}

func (l *anewLog) Find(_ context.Context, _, cursor string, _ *history.Reader) (history.Cursor, error) {
	c, ok := l.now.Parse(cursor)
	l.begin("find")
	if !ok {
		return l.next, history.ErrUnknownCursor
	}
	return c, nil
}

func (l *anewLog) Read(_ context.Context, _ string, q history.Query) (history.Page, error) {
	if l.at == "read" { // the sink is told later
		l.at, l.now = "", l.next.Epoch
	}
	return history.Page{Next: history.Cursor{Epoch: l.now, Seq: max(q.After, 10)}}, nil
}

// A history begins anew at any moment while somebody comes: places of the one that is over
// are not taken for places of the next.
func TestTheHistoryBeginsAnewWhileSomebodyComes(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	key := history.NewKey([]byte("a secret"))
	before, next := key.Epoch([]byte("before 1")), history.Cursor{Epoch: key.Epoch([]byte("the next")), Seq: 3}
	start := func(t *testing.T, at string) (*testHub, *anewLog) {
		t.Helper()
		log := &anewLog{Memory: history.NewMemory(testLimits), now: before, next: next, at: at}
		return newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Log = log }), log
	}
	follows := func(t *testing.T, log *anewLog, c *testClient) {
		t.Helper()
		e := &event.Event{ID: "x", TenantID: "acme", Type: "a.b", Payload: json.RawMessage("4"), Target: event.Target{Kind: event.KindTenant}}
		log.sink.Deliver("acme", []*history.Entry{{Event: e, Envelope: e.Seal(), Cursor: history.Cursor{Epoch: next.Epoch, Seq: 4}}})
		e = &event.Event{ID: "y", TenantID: "acme", Type: "a.b", Payload: json.RawMessage("11"), Target: event.Target{Kind: event.KindTenant}}
		log.sink.Deliver("acme", []*history.Entry{{Event: e, Envelope: e.Seal(), Cursor: history.Cursor{Epoch: next.Epoch, Seq: 11}}})
		log.sink.Flush("acme")
		for _, want := range []string{"4", "11"} {
			if got := string(openEnvelope(t, c.until(t, "a.b")).Payload); got != want {
				t.Fatalf("it got %s, and not %s", got, want)
			}
		}
	}
	t.Run("its cursor is known, and it is not there yet", func(t *testing.T) {
		is := is.New(t)
		h, log := start(t, "find")
		c := h.back(t, history.Cursor{Epoch: before, Seq: 5}.String(), meQuery)
		is.Equal(c.resume(t), "partial")
		is.True(strings.Contains(c.next(t).Data, `"unknown"`))
		follows(t, log, c)
	})
	t.Run("its tenant is attached", func(t *testing.T) {
		h, log := start(t, "attach")
		c := h.open(t, meQuery)
		follows(t, log, c)
	})
	t.Run("a service reads", func(t *testing.T) {
		is := is.New(t)
		for _, at := range []string{"find", "read"} {
			h, _ := start(t, at)
			_, answer := h.do(t, "GET", "/v1/tenants/acme/events?after="+history.Cursor{Epoch: before, Seq: 5}.String(), "")
			is.Equal(answer["gap"], true)
		}
	})
	t.Run("it catches up", func(t *testing.T) {
		is := is.New(t)
		h, _ := start(t, "read")
		c := h.back(t, history.Cursor{Epoch: before, Seq: 5}.String(), meQuery)
		event := c.next(t)
		is.Equal(event.Type, "hub.closing")
		is.Equal(event.ID, history.Cursor{Epoch: before, Seq: 5}.String()) // what it knew
	})
}
