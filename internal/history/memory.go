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
	m := &Memory{secret: make([]byte, 32)}
	rand.Read(m.secret)
	m.key = NewKey(m.secret)
	m.shelves = newShelves(limits, true, m.Epoch)
	m.ids = newIDWindow(limits)
	return m
}

// Limits are those that it was made with.
func (m *Memory) Limits() Limits { return m.shelves.limits }

// Follow implements Log.
func (m *Memory) Follow(s Sink) { m.sinks = append(m.sinks, s) }

// Ready implements Log. It always is.
func (m *Memory) Ready() error { return nil }

// Epoch is that of a tenant's cursors. A tenant that is forgotten and comes back has the same;
// another tenant, or another Memory, has a different one.
func (m *Memory) Epoch(tenant string) Epoch {
	mac := hmac.New(sha256.New, m.secret)
	mac.Write([]byte(tenant))
	return m.key.Epoch(mac.Sum(nil))
}

// Append implements Log; it does not fail.
func (m *Memory) Append(_ context.Context, entries []*Entry) error {
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
		m.append(tenant, entries)
		entries = rest
	}
	return nil
}

func (m *Memory) append(tenant string, entries []*Entry) {
	for _, e := range entries {
		e.Prepare()
	}
	h := m.shelves.lock(tenant, true)
	room := storedSize(entries)
	m.shelves.expectLocked(h, room)
	fresh := entries
	for i, e := range entries {
		m.place(h, e)
		if e.Duplicate && len(fresh) == len(entries) {
			fresh = slices.Clone(entries[:i])
		} else if !e.Duplicate && len(fresh) < i {
			fresh = append(fresh, e)
		}
	}
	m.shelves.missLocked(h, room-storedSize(fresh))
	m.shelves.evictLocked(h, entries[0].Event.Timestamp)
	if len(fresh) > 0 {
		for _, s := range m.sinks {
			s.Deliver(tenant, fresh)
		}
	}
	h.mu.Unlock()
	m.shelves.shrink() // where it is more than anybody else has
	if len(fresh) > 0 {
		for _, s := range m.sinks {
			s.Flush(tenant)
		}
	}
}

// place gives an entry its place on a shelf, which is locked, unless it is a duplicate.
func (m *Memory) place(h *shelf, e *Entry) {
	var at uint64
	if e.Event.Stored() {
		at = h.head + 1
	}
	if e.Chosen {
		if first, known := m.ids.claim(h.tenant, e.Event.ID, at, e.Event.Timestamp); known {
			e.Duplicate, e.FirstAt = true, time.Unix(0, first.at)
			if at = first.seq; at > 0 {
				e.Cursor = Cursor{h.epoch, at}
			}
			return
		}
	}
	if at > 0 {
		e.Cursor = Cursor{h.epoch, at}
		m.shelves.pushLocked(h, e)
	}
}

// Attach implements Log.
func (m *Memory) Attach(_ context.Context, tenant string) (Cursor, error) {
	h := m.shelves.lock(tenant, true)
	defer h.mu.Unlock()
	h.attached++
	return Cursor{h.epoch, h.head}, nil
}

// Detach implements Log.
func (m *Memory) Detach(tenant string) {
	if h := m.shelves.lock(tenant, false); h != nil {
		h.attached--
		m.shelves.ageLocked(h)
		h.mu.Unlock()
	}
}

// look returns a tenant's shelf, locked and without what has grown old. Where there is none it
// returns an empty one, which is not kept.
func (m *Memory) look(tenant string) *shelf {
	h := m.shelves.lock(tenant, false)
	for h == nil {
		m.shelves.mu.RLock()
		made := m.shelves.tenants[tenant] != nil // meanwhile, and it has what was known of the tenant
		h = m.shelves.emptyLocked(tenant)
		m.shelves.mu.RUnlock()
		if !made {
			h.mu.Lock()
			return h
		}
		h = m.shelves.lock(tenant, false)
	}
	m.shelves.evictLocked(h, time.Now())
	return h
}

// Find implements Log.
func (m *Memory) Find(_ context.Context, tenant, cursor string, r *Reader) (Cursor, error) {
	h := m.look(tenant)
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
func (m *Memory) Read(_ context.Context, tenant string, q Query) (Page, error) {
	h := m.look(tenant)
	defer h.mu.Unlock()
	if !h.wholeLocked(q.After, q.Reader) {
		return Page{Next: Cursor{h.epoch, h.from}}, ErrExpired
	}
	return h.readLocked(q), nil
}

// Sweep implements Log.
func (m *Memory) Sweep(now time.Time) {
	m.ids.expire(now)
	m.shelves.sweep(now)
}

// Held implements Log.
func (m *Memory) Held() int64 { return m.shelves.total.Load() }

// Stats implements Log.
func (m *Memory) Stats() Stats {
	stats := m.shelves.stats()
	stats.IDs, stats.LostIDs = m.ids.count()
	return stats
}
