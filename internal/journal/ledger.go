package journal

import "realtimehub/internal/largest"

// ledger knows how many bytes of a stream are whose, and which of them are the oldest.
// It has few parts of each key, however many messages that has: so it knows a cut to a
// 16th of the key's bytes.
type ledger struct {
	perKey int64 // the newest so many messages of a key are kept; 0: all
	keys   map[string]*holding
	sizes  largest.Sizes[string] // by key
}

// holding is what a key has, the oldest first.
type holding struct {
	parts           []part
	messages, bytes int64
}

// part is messages of a key that follow each other.
type part struct {
	last            uint64 // their last place
	messages, bytes int64
}

const mostParts = 32

// add counts a key's next message.
func (l *ledger) add(key string, place uint64, bytes int64) {
	h := l.keys[key]
	if h == nil {
		h = &holding{}
		l.keys[key] = h
	}
	h.messages++
	h.bytes += bytes
	if n := len(h.parts); n > 0 && h.parts[n-1].bytes < h.bytes/mostParts {
		p := &h.parts[n-1]
		*p = part{place, p.messages + 1, p.bytes + bytes}
	} else {
		h.parts = append(h.parts, part{place, 1, bytes})
	}
	if len(h.parts) > mostParts {
		h.merge()
	}
	for l.perKey > 0 && h.messages > l.perKey { // the broker keeps no more
		p := &h.parts[0]
		h.take(part{p.last, 1, p.bytes / p.messages})
	}
	l.sizes.Set(key, h.bytes)
}

// merge makes one part of two, all along.
func (h *holding) merge() {
	n := 0
	for i := 0; i < len(h.parts); i += 2 {
		p := h.parts[i]
		if i+1 < len(h.parts) {
			next := h.parts[i+1]
			p = part{next.last, p.messages + next.messages, p.bytes + next.bytes}
		}
		h.parts[n] = p
		n++
	}
	h.parts = h.parts[:n]
}

// take takes what is as the first part is, or less of it.
func (h *holding) take(p part) {
	first := &h.parts[0]
	first.messages -= p.messages
	first.bytes -= p.bytes
	h.messages -= p.messages
	h.bytes -= p.bytes
	if first.messages == 0 {
		h.parts = h.parts[1:]
	}
}

// begin forgets what is before a place, which the stream has left behind.
func (l *ledger) begin(place uint64) {
	for key, h := range l.keys {
		for len(h.parts) > 0 && h.parts[0].last < place {
			h.take(h.parts[0])
		}
		l.sizes.Set(key, h.bytes)
		if len(h.parts) == 0 {
			delete(l.keys, key)
		}
	}
}

// cut takes a key's oldest until it has no more bytes than that, but never its newest
// part; it returns the place up to which they went: 0 when none did.
func (l *ledger) cut(key string, bytes int64) (place uint64) {
	h := l.keys[key]
	for len(h.parts) > 1 && h.bytes > bytes {
		place = h.parts[0].last
		h.take(h.parts[0])
	}
	l.sizes.Set(key, h.bytes)
	return place
}
