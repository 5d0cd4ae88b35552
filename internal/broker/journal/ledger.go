package journal

import "realtimehub/internal/largest"

// ledger knows how many bytes of a stream are whose, and which of them are the oldest.
// It has few parts of each key, however many messages that has, and knows a cut to a 16th
// of the key's bytes, or of what a key may have.
type ledger struct {
	bound  int64 // of a key's bytes; 0: none
	perKey int64 // the newest so many messages of a key are kept; 0: all
	keys   map[string]*holding
	sizes  largest.Sizes[string] // by key
}

// holding is what a key has, the oldest first.
type holding struct {
	parts           []part
	messages, bytes int64
	merge           int // at how many parts
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
		h = &holding{merge: mostParts}
		l.keys[key] = h
	}
	h.messages++
	h.bytes += bytes
	some := h.bytes / mostParts
	if l.bound > 0 {
		some = min(some, l.bound/mostParts)
	}
	if n := len(h.parts); n > 0 && h.parts[n-1].bytes < some {
		p := &h.parts[n-1]
		*p = part{place, p.messages + 1, p.bytes + bytes}
	} else {
		h.parts = append(h.parts, part{place, 1, bytes})
	}
	if len(h.parts) > h.merge {
		h.mergeUpTo(2 * some)
		h.merge = max(mostParts, 2*len(h.parts))
	}
	for l.perKey > 0 && h.messages > l.perKey { // the broker keeps no more
		p := &h.parts[0]
		h.take(part{p.last, 1, p.bytes / p.messages})
	}
	l.sizes.Set(key, h.bytes)
}

// mergeUpTo makes one part of several that have no more bytes together.
func (h *holding) mergeUpTo(bytes int64) {
	n := 0
	for _, p := range h.parts[1:] {
		if last := &h.parts[n]; last.bytes+p.bytes <= bytes {
			*last = part{p.last, last.messages + p.messages, last.bytes + p.bytes}
		} else {
			n++
			h.parts[n] = p
		}
	}
	h.parts = h.parts[:n+1]
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

// cut takes a key's oldest until it has no more bytes than that, but its newest part only
// where it has no other; it returns the place up to which they went: 0 when none did.
func (l *ledger) cut(key string, bytes int64) (place uint64) {
	h := l.keys[key]
	for only := len(h.parts) == 1; (only || len(h.parts) > 1) && h.bytes > bytes; {
		place = h.parts[0].last
		h.take(h.parts[0])
	}
	l.sizes.Set(key, h.bytes)
	if len(h.parts) == 0 {
		delete(l.keys, key)
	}
	return place
}
