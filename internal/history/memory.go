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
// Lock order: shelves' → IDWindow.mu. The sinks are called with a shelf locked.
type Memory struct {
	// Static after the start.
	secret []byte
	key    *Key
	sinks  []Sink

	Shelves Shelves
	ids     IDWindow
}

// NewMemory makes an empty log.
func NewMemory(limits Limits) *Memory {
	l := &Memory{secret: make([]byte, 32)}
	rand.Read(l.secret)
	l.key = NewKey(l.secret)
	l.Shelves = NewShelves(limits, true, l.Epoch)
	l.ids = NewIDWindow(limits)
	return l
}

// Limits are those that it was made with.
func (l *Memory) Limits() Limits { return l.Shelves.Limits }

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
	h := l.Shelves.Lock(tenant, true)
	room := StoredSize(entries)
	l.Shelves.ExpectLocked(h, room)
	fresh := entries
	for i, e := range entries {
		l.place(h, e)
		if e.Duplicate && len(fresh) == len(entries) {
			fresh = slices.Clone(entries[:i])
		} else if !e.Duplicate && len(fresh) < i {
			fresh = append(fresh, e)
		}
	}
	l.Shelves.MissLocked(h, room-StoredSize(fresh))
	l.Shelves.EvictLocked(h, entries[0].Event.Timestamp)
	if len(fresh) > 0 {
		for _, s := range l.sinks {
			s.Deliver(tenant, fresh)
		}
	}
	h.Mu.Unlock()
	l.Shelves.Shrink() // where it is more than anybody else has
	if len(fresh) > 0 {
		for _, s := range l.sinks {
			s.Flush(tenant)
		}
	}
}

// place gives e its place in h, which is locked, unless it is a duplicate.
func (l *Memory) place(h *Shelf, e *Entry) {
	var at uint64
	if e.Event.Stored() {
		at = h.Head + 1
	}
	if e.Chosen {
		if first, known := l.ids.Claim(h.Tenant, e.Event.ID, at, e.Event.Timestamp); known {
			e.Duplicate, e.FirstAt = true, time.Unix(0, first.at)
			if at = first.seq; at > 0 {
				e.Cursor = Cursor{h.Epoch, at}
			}
			return
		}
	}
	if at > 0 {
		e.Cursor = Cursor{h.Epoch, at}
		l.Shelves.PushLocked(h, e)
	}
}

// Attach implements Log.
func (l *Memory) Attach(_ context.Context, tenant string) (Cursor, error) {
	h := l.Shelves.Lock(tenant, true)
	defer h.Mu.Unlock()
	h.Attached++
	return Cursor{h.Epoch, h.Head}, nil
}

// Detach implements Log.
func (l *Memory) Detach(tenant string) {
	if h := l.Shelves.Lock(tenant, false); h != nil {
		h.Attached--
		h.Mu.Unlock()
	}
}

// look returns a tenant's shelf without what has grown old, locked; one that does
// not exist looks like an empty one, and is not made.
func (l *Memory) look(tenant string) *Shelf {
	h := l.Shelves.Lock(tenant, false)
	if h == nil {
		l.Shelves.Mu.RLock()
		h = l.Shelves.emptyLocked(tenant)
		l.Shelves.Mu.RUnlock()
		h.Mu.Lock()
	}
	l.Shelves.EvictLocked(h, time.Now())
	return h
}

// Find implements Log.
func (l *Memory) Find(_ context.Context, tenant, cursor string, r *Reader) (Cursor, error) {
	h := l.look(tenant)
	defer h.Mu.Unlock()
	oldest := Cursor{h.Epoch, h.From}
	if cursor == "" {
		return oldest, nil
	}
	c, ok := h.Epoch.Parse(cursor)
	switch {
	case !ok || c.Seq > h.Head:
		return Cursor{h.Epoch, h.Head}, ErrUnknownCursor
	case !h.WholeLocked(c.Seq, r):
		return oldest, ErrExpired
	}
	return c, nil
}

// Read implements Log.
func (l *Memory) Read(_ context.Context, tenant string, q Query) (Page, error) {
	h := l.look(tenant)
	defer h.Mu.Unlock()
	if !h.WholeLocked(q.After, q.Reader) {
		return Page{Next: Cursor{h.Epoch, h.From}}, ErrExpired
	}
	return h.ReadLocked(q), nil
}

// Sweep implements Log.
func (l *Memory) Sweep(now time.Time) {
	l.ids.Expire(now)
	l.Shelves.Sweep(now)
}

// Held implements Log.
func (l *Memory) Held() int64 { return l.Shelves.Total.Load() }

// Stats implements Log.
func (l *Memory) Stats() Stats {
	stats := l.Shelves.Stats()
	stats.IDs, stats.LostIDs = l.ids.Count()
	return stats
}
