package history

import (
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/largest"
	"realtimehub/internal/quota"
)

// Limits bound what is kept in memory; 0 lifts a limit.
type Limits struct {
	Events int           // of one tenant: exactly the last so many are kept
	Bytes  int64         // of one tenant
	TTL    time.Duration // of an event
	Total  int64         // bytes, of all tenants together
	Window time.Duration // in which a chosen id is recognised again; 0: none is
	IDs    int           // that are remembered, of all tenants together and within Held

	Held *quota.Pool[string] // counts and bounds the memory of ids, by tenant; nil: neither
}

// shelves keep the last entries of tenants in memory, within limits, so that a reader finds
// what is for it without looking at anybody else's.
//
// Lock order: shelf.mu → shelves.mu → shelves.ranking. Nobody holds two shelves.
type shelves struct {
	limits Limits                    // static
	begin  func(tenant string) Epoch // static: of a new shelf
	rises  bool                      // static: no place is given twice, whatever is forgotten

	total atomic.Int64         // bytes
	owed  atomic.Int64         // of those: all that shelves owe
	kept  atomic.Int64         // entries
	cut   [bounds]atomic.Int64 // entries that went before their time, by the bound that they were past

	ranking sync.Mutex
	// Guarded by ranking.
	sizes largest.Sizes[*shelf] // bytes that each does not owe yet
	aging due.Queue[*shelf]     // when sweep is to look at each

	mu sync.RWMutex
	// Guarded by mu.
	tenants    map[string]*shelf
	young, old map[string]grave // of tenants that are forgotten, if places must rise
	floor      uint64           // the last place of any whose grave is forgotten too
}

// The bounds of bytes that an entry may be past.
const (
	ofTenant = iota
	ofAll
	bounds
)

// grave is where the places of a forgotten shelf stood.
type grave struct{ from, head uint64 }

const (
	graveBytes = 240    // of memory for one, of a tenant with a long name
	mostGraves = 65_536 // in one generation
)

func newShelves(limits Limits, rises bool, begin func(string) Epoch) shelves {
	return shelves{limits: limits, begin: begin, rises: rises, tenants: map[string]*shelf{}}
}

// most is how many things of a size fit in an eighth of so many bytes, up to n; 0 bytes are no
// limit.
func most(n int, size, bytes int64) int {
	if bytes > 0 {
		n = int(max(1, min(int64(n), bytes/8/size)))
	}
	return n
}

// lock returns a tenant's shelf, locked. Where there is none it makes one if create is set, and
// otherwise returns nil.
func (s *shelves) lock(tenant string, create bool) *shelf {
	for {
		s.mu.RLock()
		h := s.tenants[tenant]
		s.mu.RUnlock()
		if h == nil {
			if !create {
				return nil
			}
			s.mu.Lock()
			if h = s.tenants[tenant]; h == nil {
				h = s.makeLocked(tenant)
			}
			s.mu.Unlock()
			s.shrink()
		}
		h.mu.Lock()
		if !h.forgotten {
			return h
		}
		h.mu.Unlock()
	}
}

// makeLocked makes a tenant's shelf.
func (s *shelves) makeLocked(tenant string) *shelf {
	h := s.emptyLocked(tenant)
	s.raiseLocked(tenant)
	s.tenants[tenant] = h
	s.account(h, shelfBytes)
	s.ageLocked(h)
	return h
}

// emptyLocked is a shelf without entries, of a tenant that may have been here before.
func (s *shelves) emptyLocked(tenant string) *shelf {
	g := grave{s.floor, s.floor}
	for _, graves := range []map[string]grave{s.old, s.young} {
		if last, ok := graves[tenant]; ok {
			g = last
		}
	}
	return &shelf{tenant: tenant, epoch: s.begin(tenant), head: g.head, from: g.from, dropped: dropped{floor: g.from}}
}

// buryLocked digs the grave of a shelf that is forgotten. Of too many graves the oldest go.
func (s *shelves) buryLocked(h *shelf) {
	if !s.rises || h.head == 0 {
		return
	}
	if s.young == nil {
		s.young = map[string]grave{}
	}
	s.young[h.tenant] = grave{h.from, h.head}
	s.total.Add(graveBytes)
	if len(s.young) < most(mostGraves, graveBytes, s.limits.Total) {
		return
	}
	for _, g := range s.old {
		s.floor = max(s.floor, g.head)
	}
	s.total.Add(-graveBytes * int64(len(s.old)))
	s.old, s.young = s.young, nil
}

// raiseLocked removes the grave of a tenant that is back.
func (s *shelves) raiseLocked(tenant string) {
	before := len(s.young) + len(s.old)
	delete(s.young, tenant)
	delete(s.old, tenant)
	s.total.Add(graveBytes * int64(len(s.young)+len(s.old)-before))
}

// pushLocked adds the next entry.
func (s *shelves) pushLocked(h *shelf, e *Entry) {
	h.head = e.Cursor.Seq
	if h.entries.push(e); h.entries.len() == 1 {
		s.ageLocked(h)
	}
	s.kept.Add(1)
	before := h.lists.weight()
	h.lists.add(e, h.gone+uint64(h.entries.len()))
	size := e.size()
	expected := min(size, h.coming)
	h.coming -= expected
	s.account(h, size-expected+h.lists.weight()-before) // lists may take less than before
}

// prependLocked adds the entries between a place and from.
func (s *shelves) prependLocked(h *shelf, after uint64, entries []*Entry) {
	entries = append(entries, h.entries.items...)
	head, lost := h.head, h.dropped
	s.resetLocked(h, h.epoch, after)
	h.dropped = lost
	s.account(h, int64(lost.len())*droppedBytes)
	for _, e := range entries {
		s.pushLocked(h, e)
	}
	h.head = max(h.head, head)
}

// resetLocked empties a shelf, which is whole from a place of an epoch on.
func (s *shelves) resetLocked(h *shelf, epoch Epoch, place uint64) {
	s.account(h, shelfBytes+h.coming-h.bytes)
	s.kept.Add(-int64(h.entries.len()))
	h.entries, h.lists, h.gone, h.dropped = queue[*Entry]{}, lists{}, 0, dropped{floor: place}
	h.epoch, h.from, h.head, h.far = epoch, place, place, 0
	s.ageLocked(h)
}

// evictLocked drops what is past the tenant's limits.
func (s *shelves) evictLocked(h *shelf, now time.Time) {
	for h.entries.len() > 0 {
		old := s.limits.TTL > 0 && now.Sub(h.entries.at(0).Event.Timestamp) >= s.limits.TTL
		many := s.limits.Events > 0 && h.entries.len() > s.limits.Events
		large := s.limits.Bytes > 0 && h.bytes-h.coming > s.limits.Bytes
		if !old && !many && !large {
			return
		}
		if !old && !many {
			s.cut[ofTenant].Add(1)
		}
		s.dropLocked(h)
	}
}

// dropLocked drops the oldest entry.
func (s *shelves) dropLocked(h *shelf) {
	e := h.entries.pop()
	s.kept.Add(-1)
	h.gone++
	h.from = e.Cursor.Seq
	before := h.lists.weight()
	h.lists.remove(e)
	more := h.dropped.note(e, most(mostDropped, droppedBytes, s.limits.Bytes))
	s.account(h, int64(more)*droppedBytes-e.size()+h.lists.weight()-before)
}

// forget drops a tenant's shelf, if it is empty and nobody is attached to it. While it waits
// for one that is busy it holds nothing that others need.
func (s *shelves) forget(tenant string) {
	h := s.lock(tenant, false)
	if h == nil {
		return
	}
	defer h.mu.Unlock()
	if h.entries.len() > 0 || h.attached > 0 || h.coming > 0 {
		return
	}
	h.forgotten = true
	s.lookAt(h, time.Time{})
	s.mu.Lock()
	s.buryLocked(h)
	delete(s.tenants, tenant)
	s.mu.Unlock()
	s.account(h, -h.bytes)
}

// sweep drops entries that have grown old, and shelves that nobody needs.
func (s *shelves) sweep(now time.Time) {
	for _, h := range s.aged(now) {
		h.mu.Lock()
		s.evictLocked(h, now)
		empty := h.entries.len() == 0 && h.attached == 0
		s.ageLocked(h)
		h.mu.Unlock()
		if empty {
			s.forget(h.tenant)
		}
	}
}

// atOnce is when sweep is to look at a shelf the next time that there is one.
var atOnce = time.Unix(0, 0)

// ageLocked says when sweep is to look at a shelf: when its oldest entry is old, or as nobody may
// need it.
func (s *shelves) ageLocked(h *shelf) {
	switch {
	case h.forgotten:
	case h.entries.len() > 0 && s.limits.TTL > 0:
		s.lookAt(h, h.entries.at(0).Event.Timestamp.Add(s.limits.TTL))
	case h.entries.len() == 0 && h.attached == 0:
		s.lookAt(h, atOnce)
	}
}

// lookAt has sweep look at a shelf at a time, unless it does so before; at zero not at all.
func (s *shelves) lookAt(h *shelf, at time.Time) {
	s.ranking.Lock()
	defer s.ranking.Unlock()
	if before := h.due.At(); before.IsZero() || at.Before(before) {
		s.aging.Set(h, at)
	}
}

// aged takes out of their queue the shelves that sweep is to look at now.
func (s *shelves) aged(now time.Time) (all []*shelf) {
	for {
		some := s.someAged(now)
		all = append(all, some...)
		if len(some) < agedPiece {
			return all
		}
	}
}

// agedPiece is how many shelves are taken out before others have the lock.
const agedPiece = 1000

func (s *shelves) someAged(now time.Time) (some []*shelf) {
	s.ranking.Lock()
	defer s.ranking.Unlock()
	for h, ok := s.aging.Next(now); ok && len(some) < agedPiece; h, ok = s.aging.Next(now) {
		s.aging.Set(h, time.Time{})
		some = append(some, h)
	}
	return some
}

// stats counts without waiting for a shelf that is busy.
func (s *shelves) stats() Stats {
	s.mu.RLock()
	tenants := len(s.tenants)
	s.mu.RUnlock()
	return Stats{
		Tenants: tenants, Entries: int(s.kept.Load()), Bytes: s.total.Load(), Memory: s.total.Load(), Limit: s.limits.Total,
		CutTenant: s.cut[ofTenant].Load(), CutAll: s.cut[ofAll].Load(),
	}
}
