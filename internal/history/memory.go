package history

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"time"
)

// Memory is the Log that lives as long as the process.
//
// Lock order: shelves' → idWindow.mu. The sinks are called with a shelf locked.
type Memory struct {
	// Static after the start.
	secret []byte
	key    *Key
	sinks  []Sink

	shelves shelves
	ids     idWindow
}

// NewMemory makes an empty log.
func NewMemory(limits Limits) *Memory {
	l := &Memory{secret: make([]byte, 32)}
	rand.Read(l.secret)
	l.key = NewKey(l.secret)
	l.shelves = newShelves(limits, true, l.Epoch)
	l.ids = newIDWindow(limits)
	return l
}

// Limits are those that it was made with.
func (l *Memory) Limits() Limits { return l.shelves.limits }

// Follow implements Log.
func (l *Memory) Follow(s Sink) { l.sinks = append(l.sinks, s) }

// Ready implements Log; it is at any time.
func (l *Memory) Ready() error { return nil }

// Epoch is of one tenant and one life of the log, so that another's cursor is
// unknown; a tenant that is forgotten and comes back has the same.
func (l *Memory) Epoch(tenant string) Epoch {
	mac := hmac.New(sha256.New, l.secret)
	mac.Write([]byte(tenant))
	return l.key.Epoch(mac.Sum(nil))
}

// Append implements Log; it does not fail.
func (l *Memory) Append(_ context.Context, entries []*Entry) error {
	for len(entries) > 0 {
		tenant := entries[0].Event.TenantID
		other := func(e *Entry) bool { return e.Event.TenantID != tenant }
		var rest []*Entry
		if slices.ContainsFunc(entries, other) {
			var own []*Entry
			for _, e := range entries {
				if other(e) {
					rest = append(rest, e)
				} else {
					own = append(own, e)
				}
			}
			entries = own
		}
		l.append(tenant, entries)
		entries = rest
	}
	return nil
}

func (l *Memory) append(tenant string, entries []*Entry) {
	h := l.shelves.lock(tenant, true)
	room := storedSize(entries)
	l.shelves.expectLocked(h, room)
	fresh := entries
	for i, e := range entries {
		l.place(h, e)
		if e.Duplicate && len(fresh) == len(entries) {
			fresh = slices.Clone(entries[:i])
		} else if !e.Duplicate && len(fresh) < i {
			fresh = append(fresh, e)
		}
	}
	l.shelves.missLocked(h, room-storedSize(fresh))
	l.shelves.evictLocked(h, entries[0].Event.Timestamp)
	if len(fresh) > 0 {
		for _, s := range l.sinks {
			s.Deliver(tenant, fresh)
		}
	}
	h.mu.Unlock()
	l.shelves.shrink() // where it is more than anybody else has
	if len(fresh) > 0 {
		for _, s := range l.sinks {
			s.Flush(tenant)
		}
	}
}

// place gives e its place in h, which is locked, unless it is a duplicate.
func (l *Memory) place(h *shelf, e *Entry) {
	var at uint64
	if e.Event.Stored() {
		at = h.head + 1
	}
	if e.Chosen {
		if first, known := l.ids.claim(h.tenant, e.Event.ID, at, e.Event.Timestamp); known {
			e.Duplicate, e.FirstAt = true, time.Unix(0, first.at)
			if at = first.seq; at > 0 {
				e.Cursor = Cursor{h.epoch, at}
			}
			return
		}
	}
	if at > 0 {
		e.Cursor = Cursor{h.epoch, at}
		l.shelves.pushLocked(h, e)
	}
}

// Attach implements Log.
func (l *Memory) Attach(_ context.Context, tenant string) (Cursor, error) {
	h := l.shelves.lock(tenant, true)
	defer h.mu.Unlock()
	h.attached++
	return Cursor{h.epoch, h.head}, nil
}

// Detach implements Log.
func (l *Memory) Detach(tenant string) {
	if h := l.shelves.lock(tenant, false); h != nil {
		h.attached--
		h.mu.Unlock()
	}
}

// look returns a tenant's shelf without what has grown old, locked; one that does
// not exist looks like an empty one, and is not made.
func (l *Memory) look(tenant string) *shelf {
	h := l.shelves.lock(tenant, false)
	if h == nil {
		l.shelves.mu.RLock()
		h = l.shelves.emptyLocked(tenant)
		l.shelves.mu.RUnlock()
		h.mu.Lock()
	}
	l.shelves.evictLocked(h, time.Now())
	return h
}

// Find implements Log.
func (l *Memory) Find(_ context.Context, tenant, cursor string, r *Reader) (Cursor, error) {
	h := l.look(tenant)
	defer h.mu.Unlock()
	oldest := Cursor{h.epoch, h.from}
	if cursor == "" {
		return oldest, nil
	}
	c, ok := h.epoch.Parse(cursor)
	switch {
	case !ok || c.Seq > h.head:
		return Cursor{h.epoch, h.head}, ErrUnknownCursor
	case !h.wholeLocked(c.Seq, r):
		return oldest, ErrExpired
	}
	return c, nil
}

// Read implements Log.
func (l *Memory) Read(_ context.Context, tenant string, q Query) (Page, error) {
	h := l.look(tenant)
	defer h.mu.Unlock()
	if !h.wholeLocked(q.After, q.Reader) {
		return Page{Next: Cursor{h.epoch, h.from}}, ErrExpired
	}
	return h.readLocked(q), nil
}

// Sweep implements Log.
func (l *Memory) Sweep(now time.Time) {
	l.ids.expire(now)
	l.shelves.sweep(now)
}

// Held implements Log.
func (l *Memory) Held() int64 { return l.shelves.total.Load() }

// Stats implements Log.
func (l *Memory) Stats() Stats {
	stats := l.shelves.stats()
	stats.IDs, stats.LostIDs = l.ids.count()
	return stats
}
