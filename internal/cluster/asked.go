package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// askers ask other hubs how many of their connections events are for, where this hub does not
// keep who is connected elsewhere. A hub is asked one question at a time, in which is all that was
// wanted while it answered the one before: many publishes cost it few questions.
type askers struct {
	// Static.
	peers  Peers
	counts *delivery.Counts

	mu sync.Mutex
	of map[[4]byte]*asker // guarded by mu; one that has nothing to ask is gone
}

// asker is of one hub. It is guarded by askers.mu.
type asker struct {
	since time.Time   // since when the hub has the first question
	asked []*question // the first is under way
}

// question is some events of which a hub says how many connections each has there.
type question struct {
	events []json.RawMessage
	bytes  int
	over   chan struct{} // closed when it is answered, or is not
	each   []int         // before that; nil: not answered
	old    bool          // before that: the hub is of the version before, which cannot count
}

const (
	countTime  = 300 * time.Millisecond // that a hub may take to count
	countBytes = 32 << 10               // of events in a question
)

// want has a hub asked of an event, which is in the question at a place. There is none where
// the hub has a question for so long that it is not waited for.
func (a *askers) want(node [4]byte, e json.RawMessage) (q *question, place int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hub := a.of[node]
	switch {
	case hub == nil:
		if a.of == nil {
			a.of = map[[4]byte]*asker{}
		}
		hub = &asker{since: time.Now()}
		a.of[node] = hub
		go a.run(node, hub)
	case time.Since(hub.since) > countTime:
		return nil, 0
	}
	if last := len(hub.asked) - 1; last < 1 || hub.asked[last].bytes+len(e) > countBytes {
		hub.asked = append(hub.asked, &question{over: make(chan struct{})})
	}
	q = hub.asked[len(hub.asked)-1]
	q.events, q.bytes = append(q.events, e), q.bytes+len(e)
	return q, len(q.events) - 1
}

// run asks a hub until there is nothing to ask.
func (a *askers) run(node [4]byte, hub *asker) {
	for q := a.next(node, hub, nil); q != nil; q = a.next(node, hub, q) {
		answer, err := a.peers.Ask(context.Background(), node, Call{Op: CallCount, Events: q.events})
		switch {
		case err == nil && len(answer.Each) == len(q.events):
			q.each = answer.Each
		case err == nil:
			q.old = true
		case !errors.Is(err, ErrElsewhere):
			a.counts.Unanswered(1)
		}
		close(q.over)
	}
}

// next is the question after another; after the last the asker is gone.
func (a *askers) next(node [4]byte, hub *asker, after *question) *question {
	a.mu.Lock()
	defer a.mu.Unlock()
	if after != nil {
		hub.asked, hub.since = hub.asked[1:], time.Now()
	}
	if len(hub.asked) == 0 {
		delete(a.of, node)
		return nil
	}
	return hub.asked[0]
}

// Ask implements Sharing. A hub that does not answer in time has none, as far as is known.
func (c *Cluster) Ask(events []*event.Event) (counts func(context.Context) []int) {
	var all []wanted
	for i, e := range events {
		bare := event.Event{TenantID: e.TenantID, Target: e.Target, Payload: []byte("null")}
		data := bare.AppendWhole(nil)
		for _, node := range c.holders(e) {
			if q, place := c.askers.want(node, data); q != nil {
				all = append(all, wanted{event: i, place: place, in: q})
			}
		}
	}
	return func(ctx context.Context) []int { return sum(ctx, len(events), all) }
}

// wanted is an event in a question.
type wanted struct {
	event, place int // among those asked for together, and in the question
	in           *question
}

// sum adds up what hubs answer of each event.
func sum(ctx context.Context, events int, all []wanted) []int {
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	counts := make([]int, events)
	for _, w := range all {
		switch {
		case !w.in.await(ctx):
		case w.in.old:
			counts[w.event] = delivery.CannotCount
		case w.in.each != nil && counts[w.event] != delivery.CannotCount:
			counts[w.event] += w.in.each[w.place]
		}
	}
	return counts
}

// await says whether a question is over before ctx ends, also to who looks later.
func (q *question) await(ctx context.Context) bool {
	select {
	case <-q.over:
		return true
	case <-ctx.Done():
	}
	select {
	case <-q.over:
		return true
	default:
		return false
	}
}

// holders are the other hubs that may have connections an event is for.
func (c *Cluster) holders(e *event.Event) [][4]byte {
	others := c.peers.Others()
	if e.Target.Kind != event.KindConnection {
		return others
	}
	id, err := event.ParseConnectionID(e.Target.ConnectionID)
	for i, node := range others {
		if err == nil && node == holderOf(id) {
			return others[i : i+1]
		}
	}
	return nil
}

// countHere is how many connections of this hub each of some events is for, as another hub asks.
func (c *Cluster) countHere(events []json.RawMessage) []int {
	each := make([]int, len(events))
	for i, data := range events {
		if e, err := event.DecodeStored(data); err == nil {
			each[i] = c.countOne(e)
		}
	}
	return each
}

func (c *Cluster) countOne(e *event.Event) int {
	if e.Target.Kind != event.KindConnection {
		return c.cfg.Delivery.Streams.CountHere(e)
	}
	conn := c.cfg.Delivery.Streams.Connection(e.Target.ConnectionID)
	if conn == nil || conn.Tenant != e.TenantID || e.Target.Excludes(conn.Profile, conn.ID) {
		return 0
	}
	return 1
}
