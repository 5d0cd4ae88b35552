package peers

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// hold is a topic that we hold.
type hold struct {
	refs  int
	sub   *nats.Subscription
	ready chan struct{}         // closed when the others have told what they have
	of    map[string]*remoteSet // by node
	begun time.Time
	first map[string]struct{} // who was there when it begun, and has not told yet
}

// knows says whether a node's first word of a topic is of what was there already.
func (h *hold) knows(node string) bool {
	_, first := h.first[node]
	delete(h.first, node)
	return first || time.Since(h.begun) < beatEvery // who is there is heard by then
}

// remoteSet is what another process has.
type remoteSet struct {
	heard   bool // its first snapshot has come
	known   bool // the snapshot that comes is of what was there already
	version uint64
	partial map[ID]struct{} // of a snapshot, as long as more of its messages are to come
	parts   uint64          // of those that have come
}

// Hold has Changed told of all that others have of a topic, and returns when those
// that are there have told, or do not answer. Each Hold takes one Release.
func (p *Peers) Hold(ctx context.Context, topic string) error {
	p.mu.Lock()
	h := p.holds[topic]
	var nodes []string
	if h == nil {
		sub, err := p.nc.ChanSubscribe(p.topicSubject(topic), p.in)
		if err != nil {
			p.mu.Unlock()
			return err
		}
		h = &hold{sub: sub, ready: make(chan struct{}), of: map[string]*remoteSet{}, begun: time.Now(), first: map[string]struct{}{}}
		for name, n := range p.nodes {
			nodes = append(nodes, name)
			h.first[name] = struct{}{}
			n.lacks[topic] = h.begun
		}
		p.holds[topic] = h
		p.readyLocked(h)
	}
	h.refs++
	p.mu.Unlock()
	for _, name := range nodes {
		if err := p.want(name, topic); err != nil {
			p.cfg.Logger.Debug("could not ask another hub for its state", "err", err) // it is asked again when we hear it
		}
	}
	timer := time.NewTimer(holdTimeout)
	defer timer.Stop()
	select {
	case <-h.ready:
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// Complete says whether all others that are there have told what they have of a topic
// that is held. It waits for those that answer, as Hold does.
func (p *Peers) Complete(ctx context.Context, topic string) bool {
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	for {
		complete, awaited := p.complete(topic)
		if complete || !awaited {
			return complete
		}
		select {
		case <-time.After(completeEvery):
		case <-ctx.Done():
			return false
		}
	}
}

// complete is Complete now, and whether there is somebody to wait for.
func (p *Peers) complete(topic string) (complete, awaited bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.holds[topic]
	complete = true
	for name, n := range p.nodes {
		if h == nil || h.of[name] == nil || !h.of[name].heard {
			complete, awaited = false, awaited || h != nil && !n.absent && !n.silent(now)
		}
	}
	return complete, awaited
}

// Release ends one Hold; with the last all that others have of the topic is as
// unknown as before, without a Change: none is told once it returns.
func (p *Peers) Release(topic string) {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.holds[topic]; h != nil {
		if h.refs--; h.refs == 0 {
			h.sub.Unsubscribe()
			delete(p.holds, topic)
			for _, n := range p.nodes {
				delete(n.lacks, topic)
			}
		}
	}
}

// want asks a process for a snapshot of a topic. If it is not there, the broker says so.
func (p *Peers) want(name, topic string) error {
	return p.nc.PublishRequest(p.nodeSubject(name), p.inbox+"."+name, frame(kindWant, p.cfg.Node, topic))
}

// lacksLocked notes that we lack something of a topic that a process has told of, and says
// whether to ask at once: it was not for a second.
func (p *Peers) lacksLocked(node, topic string) (ask bool) {
	n, now := p.nodes[node], time.Now()
	if n == nil {
		return false
	}
	n.lack(topic)
	if ask = now.Sub(n.lacks[topic]) > askTimeout; ask {
		n.lacks[topic] = now
	}
	return ask
}

// setLocked is what a node has of a topic that we hold, nil when we don't.
func (p *Peers) setLocked(node, topic string) *remoteSet {
	h := p.holds[topic]
	if h == nil {
		return nil
	}
	s := h.of[node]
	if s == nil {
		s = &remoteSet{}
		h.of[node] = s
	}
	return s
}

func (p *Peers) delta(node, topic string, from, to uint64, r *reader) {
	p.changing.Lock()
	defer p.changing.Unlock()
	ops := r.ops()
	p.mu.Lock()
	s := p.setLocked(node, topic)
	if s == nil || r.bad {
		p.mu.Unlock()
		return
	}
	if from != s.version || !s.heard {
		again := (to > s.version || !s.heard) && p.lacksLocked(node, topic)
		p.mu.Unlock()
		if again {
			p.want(node, topic)
		}
		return
	}
	s.version = to
	p.mu.Unlock()
	if len(ops) > 0 {
		p.cfg.Changed(Change{Topic: topic, Node: node, Ops: ops})
	}
}

// add takes a part of a snapshot.
func (r *remoteSet) add(ops []Op) {
	for _, op := range ops {
		r.partial[op.ID] = struct{}{}
	}
	r.parts++
}

// without adds to changes that what a process had has gone but for some.
func without(ops []Op, had []ID, still map[ID]struct{}) []Op {
	for _, id := range had {
		if _, there := still[id]; !there {
			ops = append(ops, Op{ID: id})
		}
	}
	return ops
}

// snapshot takes a part of all that another hub has of a topic.
func (p *Peers) snapshot(node, topic string, version, part uint64, r *reader) {
	p.changing.Lock()
	defer p.changing.Unlock()
	ops := r.ops()
	p.mu.Lock()
	n := p.nodes[node]
	if n == nil { // it was given up
		p.mu.Unlock()
		return
	}
	n.told = time.Now() // it has heard us, and answers one question after the other
	s := p.setLocked(node, topic)
	if s == nil || r.bad || s.partial == nil && part&firstPart == 0 {
		p.mu.Unlock()
		return
	}
	if place := part / partPlace; place > 0 && place != s.parts { // of the version before none has a place
		s.partial = nil
		again := p.lacksLocked(node, topic)
		p.mu.Unlock()
		p.cfg.Logger.Warn("part of another hub's state was lost on the way and is asked for again", "node", node)
		if again {
			p.want(node, topic)
		}
		return
	}
	if s.heard && s.version == version {
		s.partial = nil // it says nothing new
		n.has(topic)
		p.mu.Unlock()
		return
	}
	if part&firstPart != 0 {
		s.partial, s.parts = map[ID]struct{}{}, 0
		s.known = !s.heard && p.holds[topic].knows(node)
	}
	s.add(ops)
	known, whole := s.known, map[ID]struct{}(nil)
	last := part&lastPart != 0
	if last {
		whole, s.partial = s.partial, nil
		n.has(topic)
	}
	p.mu.Unlock()
	if last {
		ops = without(ops, p.cfg.Has(topic, node), whole)
	}
	if len(ops) > 0 {
		p.cfg.Changed(Change{Topic: topic, Node: node, Ops: ops, Known: known})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last { // not before all of it is taken in: who sees heard takes what is there for all
		s.version, s.heard = version, true
	}
	if h := p.holds[topic]; h != nil {
		p.readyLocked(h)
	}
}

// readyLocked closes a hold's ready when all that answer have told: nobody waits for one
// that is silent.
func (p *Peers) readyLocked(h *hold) {
	now := time.Now()
	for name, n := range p.nodes {
		if s := h.of[name]; (s == nil || !s.heard) && !n.absent && !n.silent(now) {
			return
		}
	}
	select {
	case <-h.ready:
	default:
		close(h.ready)
	}
}

// resync catches up, both ways, after we were cut off; afresh: from the broker, so that
// nobody's word came.
func (p *Peers) resync(afresh bool) {
	now := time.Now()
	topics := map[string][]string{}
	p.mu.Lock()
	own := slices.Collect(maps.Keys(p.version))
	for name, n := range p.nodes {
		if afresh || n.silent(now) {
			p.lackAllLocked(n)
		}
		topics[name] = p.lackedLocked(n, now)
	}
	p.mu.Unlock()
	p.nc.Publish(p.all(), frame(kindBeat, p.cfg.Node))
	p.check(own)
	for name, held := range topics {
		for _, topic := range held {
			p.want(name, topic)
		}
	}
	p.resynced()
}

// resynced has Resynced called: once more where it is under way.
func (p *Peers) resynced() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

func (p *Peers) resyncs() {
	for {
		select {
		case <-p.again:
			p.cfg.Resynced()
		case <-p.ended:
			return
		}
	}
}
