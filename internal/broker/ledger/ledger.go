package ledger

import "realtimehub/internal/largest"

// Ledger is of one stream.
type Ledger struct {
	bound  int64 // of a key's bytes; 0: none
	perKey int64 // the newest so many messages of a key are kept; 0: all
	keys   map[string]*holding
	sizes  largest.Sizes[string] // by key
}

// New makes an empty one, for keys that may have so many bytes each; 0: as many as they like.
func New(bound int64) *Ledger { return &Ledger{bound: bound, keys: map[string]*holding{}} }

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

// MostParts is how many parts a key has, more or less.
const MostParts = 32

// Keep has the newest so many messages of each key kept from now on; 0: all.
func (l *Ledger) Keep(perKey int64) { l.perKey = perKey }

// Total is how many bytes all keys have.
func (l *Ledger) Total() int64 { return l.sizes.Total() }

// Most is the key that has most bytes; not ok: there is none.
func (l *Ledger) Most() (key string, bytes int64, ok bool) { return l.sizes.Most() }

// Add counts a key's next message.
func (l *Ledger) Add(key string, place uint64, bytes int64) {
	h := l.keys[key]
	if h == nil {
		h = &holding{merge: MostParts}
		l.keys[key] = h
	}
	h.messages++
	h.bytes += bytes
	some := h.bytes / MostParts
	if l.bound > 0 {
		some = min(some, l.bound/MostParts)
	}
	if n := len(h.parts); n > 0 && h.parts[n-1].bytes < some {
		p := &h.parts[n-1]
		*p = part{place, p.messages + 1, p.bytes + bytes}
	} else {
		h.parts = append(h.parts, part{place, 1, bytes})
	}
	if len(h.parts) > h.merge {
		h.mergeUpTo(2 * some)
		h.merge = max(MostParts, 2*len(h.parts))
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

// Begin forgets what is before a place, which the stream has left behind.
func (l *Ledger) Begin(place uint64) {
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

// Cut takes a key's oldest until it has no more bytes than that, but its newest part only
// where it has no other; it returns the place up to which they went: 0 when none did.
func (l *Ledger) Cut(key string, bytes int64) (place uint64) {
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
