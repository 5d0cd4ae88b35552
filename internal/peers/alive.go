package peers

import (
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// Silence is how long a process may be silent until it is given up.
const Silence = 10 * time.Second

// Nodes are the others that are there.
func (p *Peers) Nodes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.nodes))
}

// heard notes a sign of life. Of a process that is new to us, or was silent for
// longer than its beats are apart, all is asked. It says whether the process is there.
func (p *Peers) heard(node string) bool {
	now := time.Now()
	p.mu.Lock()
	if _, left := p.left[node]; left {
		p.mu.Unlock()
		return false
	}
	last, known := p.nodes[node]
	p.nodes[node] = now
	missed := known && now.Sub(last) > beatEvery*3/2
	var topics []string
	if !known || missed {
		topics = slices.Collect(maps.Keys(p.holds))
	}
	p.mu.Unlock()
	if !known {
		p.cfg.Logger.Info("another hub", "node", node)
		p.nc.Publish(p.nodeSubject(node), frame(kindBeat, p.cfg.Node)) // so that it knows us at once
	}
	for _, topic := range topics {
		p.want(p.nodeSubject(node), topic)
	}
	return true
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
			p.resync()
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
		empty := len(p.cfg.Items(topic)) == 0
		p.mu.Lock()
		if p.recent[topic] == 0 && empty && len(p.pending[topic]) == 0 {
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
	again := able && p.able.IsZero()
	switch {
	case !able:
		p.able = time.Time{}
	case again:
		p.able = now
	}
	if able {
		for node, heard := range p.nodes {
			if now.Sub(heard) >= Silence && now.Sub(p.able) >= Silence {
				silent[node] = heard
			}
		}
	}
	p.mu.Unlock()
	if again {
		p.resync()
	}
	for node, heard := range silent {
		p.cfg.Logger.Warn("another hub is silent and is given up", "node", node)
		p.drop(node, heard)
	}
}

// drop forgets a process and all it has.
func (p *Peers) drop(node string, at time.Time) {
	p.changing.Lock()
	defer p.changing.Unlock()
	var changes []Change
	p.mu.Lock()
	if _, known := p.nodes[node]; known {
		delete(p.nodes, node)
		p.cfg.Logger.Info("another hub is gone", "node", node)
	}
	for topic, h := range p.holds {
		s := h.of[node]
		delete(h.of, node)
		delete(h.first, node)
		p.readyLocked(h)
		if s == nil || len(s.ids) == 0 {
			continue
		}
		c := Change{Topic: topic, Node: node, At: at}
		for id := range s.ids {
			c.Ops = append(c.Ops, Op{ID: id})
		}
		changes = append(changes, c)
	}
	p.mu.Unlock()
	for _, c := range changes {
		p.cfg.Changed(c)
	}
}

// resync catches up, both ways, after we were cut off.
func (p *Peers) resync() {
	p.mu.Lock()
	own, held := slices.Collect(maps.Keys(p.version)), slices.Collect(maps.Keys(p.holds))
	p.mu.Unlock()
	p.nc.Publish(p.all(), frame(kindBeat, p.cfg.Node))
	p.check(own)
	for _, topic := range held {
		p.want(p.all(), topic)
	}
	p.done.Go(p.cfg.Resynced)
}
