package peers

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// Silence is how long a process may be silent until it is given up.
const Silence = 10 * time.Second

// remembered is how long who left or was given up is remembered as such.
const remembered = 10 * time.Minute

// Known are the others that are there, and those that were given up lately. These may be back:
// who is silent may sleep. None is in both lists.
func (p *Peers) Known() (there, lost []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.nodes)), slices.Sorted(maps.Keys(p.lost))
}

// Nodes are the others that are there.
func (p *Peers) Nodes() []string {
	there, _ := p.Known()
	return there
}

// Hears says that no other is silent, nor was given up lately.
func (p *Peers) Hears() bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nodes {
		if n.silent(now) {
			return false
		}
	}
	return len(p.lost) == 0
}

// Lags says that others who are there have yet to tell again what we may have missed while
// they were not heard.
func (p *Peers) Lags() bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nodes {
		there := !n.silent(now) || now.Sub(n.missed) <= beatEvery*3/2
		if there && len(n.lacks) > 0 && now.Sub(n.missed) <= Silence {
			return true
		}
	}
	return false
}

// heard notes a sign of life. Of a process that is new to us, or was silent for
// longer than its beats are apart, all is asked. It says whether the process is there.
func (p *Peers) heard(name string) bool {
	now := time.Now()
	p.mu.Lock()
	if _, left := p.left[name]; left {
		p.mu.Unlock()
		return false
	}
	n := p.nodes[name]
	known := n != nil
	if !known {
		n = &node{lacks: map[string]time.Time{}}
		p.nodes[name] = n
		delete(p.lost, name)
	}
	if n.silent(now) {
		p.lackAllLocked(n)
	}
	n.heard, n.absent = now, false
	topics := p.lackedLocked(n, now)
	p.mu.Unlock()
	if !known {
		p.cfg.Logger.Info("found another hub", "node", name)
		p.nc.Publish(p.nodeSubject(name), p.greeting(name)) // so that it knows us at once
		p.meet()
	}
	for _, topic := range topics {
		p.want(name, topic)
	}
	return true
}

// silent says that a beat is overdue.
func (n *node) silent(now time.Time) bool { return now.Sub(n.heard) > beatEvery*3/2 }

// lack notes that we may lack something of a topic.
func (n *node) lack(topic string) {
	if _, known := n.lacks[topic]; !known {
		n.lacks[topic], n.looked = time.Time{}, time.Time{}
	}
}

// lackAllLocked notes that we may have missed whatever a process has told.
func (p *Peers) lackAllLocked(n *node) {
	n.missed = time.Now()
	for topic := range p.holds {
		n.lack(topic)
	}
}

// lackedLocked are the topics to ask a process for, of which we may lack something. It is
// asked once for each, and again where it does not answer, or has answered what it was asked
// later.
func (p *Peers) lackedLocked(n *node, now time.Time) (topics []string) {
	if len(n.lacks) == 0 || now.Sub(n.looked) < askTimeout {
		return nil
	}
	n.looked = now
	for topic, asked := range n.lacks {
		passed := n.answered.Sub(asked) >= askTimeout || now.Sub(n.told) >= askTimeout
		if now.Sub(asked) >= askTimeout && passed {
			n.lacks[topic] = now
			topics = append(topics, topic)
		}
	}
	return topics
}

// has notes that a process has told all that it has of a topic.
func (n *node) has(topic string) {
	if asked := n.lacks[topic]; asked.After(n.answered) {
		n.answered = asked
	}
	delete(n.lacks, topic)
}

// absent notes that nobody is at the broker by a name: it is not waited for.
func (p *Peers) absent(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.nodes[name]; n != nil {
		n.absent = true
		for _, h := range p.holds {
			p.readyLocked(h)
		}
	}
}

// greeting is a beat that names the others, and says how long ago they were heard: who
// has just come does not know of those that are silent.
func (p *Peers) greeting(to string) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := frame(kindBeat, p.cfg.Node)
	for name, n := range p.nodes {
		if name != to {
			b = appendNumbers(appendText(b, name), uint64(time.Since(n.heard).Milliseconds()))
		}
	}
	return b
}

// hearsay takes a greeting's names: who is silent is given up in time.
func (p *Peers) hearsay(r *reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(r.b) > 0 {
		name, ago := string(r.bytes()), time.Duration(r.number())*time.Millisecond
		_, left := p.left[name]
		if r.bad || left || name == "" || name == p.cfg.Node || p.nodes[name] != nil || ago >= Silence {
			continue
		}
		n := &node{heard: time.Now().Add(-ago), lacks: map[string]time.Time{}}
		p.lackAllLocked(n)
		p.nodes[name] = n
		delete(p.lost, name)
	}
}

func (p *Peers) beats() {
	status := p.nc.StatusChanged(nats.CONNECTED)
	defer p.nc.RemoveStatusListener(status)
	ticker := time.NewTicker(beatEvery / 2)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-p.ended:
			return
		case <-status:
			p.resync(true)
		case now := <-ticker.C:
			if n%2 == 0 {
				p.beat()
			}
			p.giveUp(now)
		}
	}
}

func (p *Peers) beat() {
	p.nc.Publish(p.all(), frame(kindBeat, p.cfg.Node))
	p.mu.Lock()
	var topics []string
	for topic, n := range p.recent {
		if topics = append(topics, topic); n == 1 {
			delete(p.recent, topic)
		} else {
			p.recent[topic] = n - 1
		}
	}
	p.mu.Unlock()
	p.check(topics)
	for _, topic := range topics {
		any := p.cfg.Any(topic)
		p.mu.Lock()
		if p.recent[topic] == 0 && !any && len(p.pending[topic]) == 0 {
			delete(p.version, topic)
		}
		p.mu.Unlock()
	}
}

// giveUp drops those that were silent for too long, while we could hear them.
func (p *Peers) giveUp(now time.Time) {
	able := p.cfg.Able()
	silent := map[string]time.Time{}
	p.mu.Lock()
	slept := !p.looked.IsZero() && now.Sub(p.looked) > beatEvery // and what came meanwhile was not heard
	p.looked = now
	again := able && p.able.IsZero()
	switch {
	case !able:
		p.able = time.Time{}
	case again || slept:
		p.able = now
	}
	if able && !p.doubted {
		for name, n := range p.nodes {
			if now.Sub(n.heard) >= Silence && now.Sub(p.able) >= Silence {
				silent[name] = n.heard
				p.doubted = true
			}
		}
	}
	old := func(_ string, at time.Time) bool { return now.Sub(at) > remembered }
	maps.DeleteFunc(p.lost, old)
	maps.DeleteFunc(p.left, old)
	p.mu.Unlock()
	if again {
		p.resync(false)
	}
	if len(silent) > 0 {
		p.done.Go(func() { p.bury(silent) }) // beats go on
	}
}

// bury drops those that were silent since a time, and still are, unless we may be cut off.
func (p *Peers) bury(silent map[string]time.Time) {
	err := p.cfg.Sure(context.Background())
	read := make(chan struct{})
	select {
	case p.unread <- read: // what they said may wait to be read
		<-read
	case <-p.ended:
		return
	}
	p.mu.Lock()
	p.doubted = false
	if err != nil {
		p.able = time.Time{}
	}
	p.mu.Unlock()
	if err != nil {
		p.cfg.Logger.Warn("other hubs are silent, or this hub is cut off from the store", "err", err)
		return
	}
	for name, heard := range silent {
		p.drop(name, heard, true)
	}
}

// drop forgets a process and all it has, which went at a time. One that is given up is remembered as
// lost, and stays where it was heard after that time.
func (p *Peers) drop(name string, at time.Time, givenUp bool) {
	p.changing.Lock()
	defer p.changing.Unlock()
	var topics []string
	p.mu.Lock()
	if givenUp {
		if n := p.nodes[name]; n == nil || n.heard != at {
			p.mu.Unlock()
			return
		}
		p.lost[name] = time.Now()
		p.cfg.Logger.Warn("another hub has been silent for too long and is counted as gone", "node", name)
	}
	if _, known := p.nodes[name]; known {
		delete(p.nodes, name)
		p.cfg.Logger.Info("another hub is gone", "node", name)
	}
	for topic, h := range p.holds {
		s := h.of[name]
		delete(h.of, name)
		delete(h.first, name)
		p.readyLocked(h)
		if s != nil {
			topics = append(topics, topic)
		}
	}
	p.mu.Unlock()
	for _, topic := range topics {
		if ops := without(nil, p.cfg.Has(topic, name), nil); len(ops) > 0 {
			p.cfg.Changed(Change{Topic: topic, Node: name, At: at, Ops: ops})
		}
	}
}
