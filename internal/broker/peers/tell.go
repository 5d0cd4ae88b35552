package peers

import (
	"encoding/binary"
	"time"
)

// Tell says that an item of ours has changed, or has gone. Those of one topic are
// told in order; many at once are told together.
func (p *Peers) Tell(topic string, op Op) {
	p.mu.Lock()
	p.pending[topic] = append(p.pending[topic], op)
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *Peers) flushes() {
	for {
		select {
		case <-p.kick:
			p.flush()
		case <-p.ended:
			return
		}
		select { // what comes now is gathered
		case <-time.After(gatherFor):
		case <-p.ended:
			return
		}
	}
}

func (p *Peers) flush() {
	p.sending.Lock()
	defer p.sending.Unlock()
	p.mu.Lock()
	all := p.pending
	p.pending = map[string][]Op{}
	p.mu.Unlock()
	for topic, ops := range all {
		for len(ops) > 0 {
			p.mu.Lock()
			from := p.version[topic]
			to := max(from+1, p.now()) // more than any that was forgotten
			p.version[topic] = to
			p.recent[topic] = 2
			p.mu.Unlock()
			var some []byte
			some, ops = chunk(ops, p.room(topic))
			p.sendDelta(topic, from, to, some)
		}
	}
}

// now is a time that goes on, whatever the clock does.
func (p *Peers) now() uint64 {
	return uint64(p.begun.UnixMicro() + time.Since(p.begun).Microseconds())
}

// room is how many bytes of items one message about a topic has room for.
func (p *Peers) room(topic string) int {
	head := len(frame(kindSnapshot, p.cfg.Node, topic)) + 3*binary.MaxVarintLen64
	return min(chunkBytes, int(p.nc.MaxPayload())-head)
}

// sendDelta tells of changes between two versions; if it is lost, the next one tells.
func (p *Peers) sendDelta(topic string, from, to uint64, ops []byte) {
	head := appendNumbers(frame(kindDelta, p.cfg.Node, topic), from, to)
	p.nc.Publish(p.topicSubject(topic), append(head, ops...))
}

// check tells the versions of topics: who has another asks.
func (p *Peers) check(topics []string) {
	p.sending.Lock()
	defer p.sending.Unlock()
	for _, topic := range topics {
		p.mu.Lock()
		v := p.version[topic]
		p.mu.Unlock()
		p.sendDelta(topic, v, v, nil)
	}
}

// tellAll answers with all of our items of a topic.
func (p *Peers) tellAll(topic, reply string) {
	p.sending.Lock()
	defer p.sending.Unlock()
	items := p.cfg.Items(topic)
	p.mu.Lock()
	version := p.version[topic]
	p.mu.Unlock()
	for place := uint64(0); place == 0 || len(items) > 0; place++ {
		var some []byte
		some, items = chunk(items, p.room(topic))
		part := place * partPlace
		if place == 0 {
			part = firstPart
		}
		if len(items) == 0 {
			part |= lastPart
		}
		head := appendNumbers(frame(kindSnapshot, p.cfg.Node, topic), version, part)
		p.nc.Publish(reply, append(head, some...))
	}
}
