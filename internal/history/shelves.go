package history

import (
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/largest"
	"realtimehub/internal/quota"
)

// Limits bound what is kept in memory; 0 lifts a limit.
type Limits struct {
	Events int           // a tenant: exactly the last so many are kept
	Bytes  int64         // a tenant
	TTL    time.Duration // of an event
	Total  int64         // bytes of all tenants together
	Window time.Duration // in which an id is recognised again; 0: none is
	IDs    int           // remembered at most, of all tenants together

	Held *quota.Pool[string] // what ids take is counted there, by tenant; nil: nowhere
}

// owedStep is how many bytes a shelf owes more at a time: as little as an entry may have.
const owedStep = 4 << 10

// shelfBytes is the memory that a tenant's empty shelf takes, as measured.
const shelfBytes = 832

// shelves keep the last entries of tenants in memory, within limits, so that a
// reader finds what is for it without looking at anybody else's.
//
// Lock order: shelf.mu → shelves.mu → shelves.ranking; nobody holds two shelves.
type shelves struct {
	limits Limits                    // static
	begin  func(tenant string) Epoch // static: a new shelf's
	rises  bool                      // static: no place is given twice, whatever is forgotten

	total atomic.Int64
	kept  atomic.Int64         // entries
	owed  atomic.Int64         // of that: what goes as soon as it has come
	cut   [bounds]atomic.Int64 // entries that went before their time, by the bound that they were past

	ranking sync.Mutex
	sizes   largest.Sizes[*shelf] // guarded by ranking: what could go of each, now or when it has come

	mu sync.RWMutex
	// Guarded by mu.
	tenants    map[string]*shelf
	young, old map[string]grave // of those that were forgotten, if places must rise
	floor      uint64           // the last place of those whose graves are forgotten too
}

// The bounds of bytes that an entry may be past.
const (
	ofTenant = iota
	ofAll
	bounds
)

// grave is what is remembered of a forgotten shelf that had something.
type grave struct{ from, head uint64 }

const (
	graveBytes = 240    // that one takes in memory, of a tenant with a long name
	mostGraves = 65_536 // in one generation
)

func newShelves(limits Limits, rises bool, begin func(string) Epoch) shelves {
	return shelves{limits: limits, begin: begin, rises: rises, tenants: map[string]*shelf{}}
}

// most is how many things of a size fit in a small part of so many bytes; no limit is 0.
func most(n int, size, bytes int64) int {
	if bytes > 0 {
		n = int(max(1, min(int64(n), bytes/8/size)))
	}
	return n
}

// lock returns a tenant's shelf locked, making it when create is set; else nil
// where there is none.
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
				h = s.emptyLocked(tenant)
				s.digLocked(tenant)
				s.tenants[tenant] = h
				s.account(h, shelfBytes)
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

// buryLocked remembers a shelf that is forgotten; of many the first are not.
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

// digLocked forgets the grave of who is back.
func (s *shelves) digLocked(tenant string) {
	before := len(s.young) + len(s.old)
	delete(s.young, tenant)
	delete(s.old, tenant)
	s.total.Add(graveBytes * int64(len(s.young)+len(s.old)-before))
}

// account counts bytes of a shelf that nobody else has now. What has come is no longer
// owed: it can go.
func (s *shelves) account(h *shelf, n int64) {
	paid := max(0, h.owed-h.coming)
	if n == 0 && paid == 0 {
		return
	}
	h.bytes += n
	s.total.Add(n)
	s.owe(h, -paid)
}

// owe has so many bytes more of what is to come go as soon as it has.
func (s *shelves) owe(h *shelf, n int64) {
	h.owed += n
	s.owed.Add(n)
	if s.limits.Total > 0 {
		s.ranking.Lock()
		s.sizes.Set(h, h.bytes-shelfBytes-h.owed)
		s.ranking.Unlock()
	}
}

// full says that all have more than they may, without what goes anyway.
func (s *shelves) full() bool {
	return s.limits.Total > 0 && s.total.Load()-s.owed.Load() > s.limits.Total
}

// most is the shelf of which most could go; nil where nothing could.
func (s *shelves) most() (h *shelf, bytes int64) {
	s.ranking.Lock()
	defer s.ranking.Unlock()
	h, bytes, _ = s.sizes.Most()
	return h, bytes
}

// expectLocked counts the bytes of entries that are to come, and makes room for them
// before they are there. It lets go of the shelf meanwhile, which is not forgotten until
// they were pushed or are no longer expected.
func (s *shelves) expectLocked(h *shelf, n int64) {
	h.coming += n
	s.account(h, n)
	if n > 0 && s.full() {
		h.mu.Unlock()
		s.shrink()
		h.mu.Lock()
	}
}

// missLocked is for bytes that were expected and do not come.
func (s *shelves) missLocked(h *shelf, n int64) {
	n = min(n, h.coming)
	h.coming -= n
	s.account(h, -n)
}

// expect is expectLocked for what can be had from elsewhere as well: it says that there
// is no room, where some of the shelf itself would have to go for it.
func (s *shelves) expect(h *shelf, n int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.limits.Bytes > 0 && h.bytes+n > s.limits.Bytes {
		return false
	}
	if s.limits.Total > 0 && s.total.Load()+n > s.limits.Total {
		if other, most := s.most(); other == h || h.bytes-shelfBytes+n >= most {
			return false
		}
	}
	s.expectLocked(h, n)
	return true
}

// pushLocked adds the next entry.
func (s *shelves) pushLocked(h *shelf, e *Entry) {
	h.head = e.Cursor.Seq
	h.entries.push(e)
	s.kept.Add(1)
	before := h.lists.weight()
	h.lists.add(e.Event, h.gone+uint64(h.entries.len()))
	size := e.size()
	expected := min(size, h.coming)
	h.coming -= expected
	s.account(h, size-expected+h.lists.weight()-before) // lists may even take less than before
}

// prependLocked adds what comes before from, after a place.
func (s *shelves) prependLocked(h *shelf, after uint64, entries []*Entry) {
	entries = append(entries, h.entries.items...)
	head, dropped := h.head, h.dropped
	s.resetLocked(h, h.epoch, after)
	h.dropped = dropped
	s.account(h, int64(dropped.len())*droppedBytes)
	for _, e := range entries {
		s.pushLocked(h, e)
	}
	h.head = max(h.head, head)
}

// resetLocked empties a shelf, which is whole from a place on.
func (s *shelves) resetLocked(h *shelf, epoch Epoch, place uint64) {
	s.account(h, shelfBytes+h.coming-h.bytes)
	s.kept.Add(-int64(h.entries.len()))
	h.entries, h.lists, h.gone, h.dropped = queue[*Entry]{}, lists{}, 0, dropped{floor: place}
	h.epoch, h.from, h.head, h.far = epoch, place, place, 0
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
	h.lists.remove(e.Event)
	more := h.dropped.note(e.Event, e.Cursor.Seq, most(mostDropped, droppedBytes, s.limits.Bytes))
	s.account(h, int64(more)*droppedBytes-e.size()+h.lists.weight()-before)
}

// clearLocked forgets who lost what.
func (s *shelves) clearLocked(h *shelf) {
	s.account(h, -int64(h.dropped.len())*droppedBytes)
	h.dropped = dropped{floor: h.from}
}

// shrink makes room where all together have more than they may. Whoever has most loses
// its oldest, until another has as much: so nobody does who has less than its share. What
// has not come yet cannot go: its shelf owes it, so that others pay neither for it nor
// less for themselves.
func (s *shelves) shrink() {
	for s.full() {
		h, _ := s.most()
		if h == nil || !s.takeFrom(h) {
			return
		}
	}
}

// takeFrom takes from a shelf as long as it has most; it says whether there was
// anything to take.
func (s *shelves) takeFrom(h *shelf) bool {
	h.mu.Lock()
	some := true
	for some && s.full() {
		if other, _ := s.most(); other != h {
			break
		}
		some = s.takeLocked(h)
	}
	empty := h.entries.len() == 0
	h.mu.Unlock()
	if empty {
		s.forget(h.tenant)
	}
	return some
}

func (s *shelves) takeLocked(h *shelf) bool {
	before := h.bytes
	switch {
	case h.entries.len() > 0:
		s.cut[ofAll].Add(1)
		s.dropLocked(h)
		if h.bytes >= before { // to remember who lost it takes more than it did
			s.clearLocked(h)
		}
	case h.dropped.len() > 0:
		s.clearLocked(h)
	case h.coming > h.owed:
		s.owe(h, min(h.coming-h.owed, owedStep))
	default:
		return false
	}
	return true
}

// forget drops a shelf that is empty and that nobody is attached to. Who waits for one that
// is busy holds nothing that others need.
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
	s.mu.Lock()
	s.buryLocked(h)
	delete(s.tenants, tenant)
	s.mu.Unlock()
	s.account(h, -h.bytes)
}

// sweep drops what has grown old, and the shelves that nobody needs.
func (s *shelves) sweep(now time.Time) {
	for _, h := range s.all() {
		h.mu.Lock()
		s.evictLocked(h, now)
		empty := h.entries.len() == 0 && h.attached == 0
		h.mu.Unlock()
		if empty {
			s.forget(h.tenant)
		}
	}
}

func (s *shelves) all() []*shelf {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*shelf, 0, len(s.tenants))
	for _, h := range s.tenants {
		all = append(all, h)
	}
	return all
}

// stats waits for no shelf that is busy.
func (s *shelves) stats() Stats {
	s.mu.RLock()
	tenants := len(s.tenants)
	s.mu.RUnlock()
	return Stats{
		Tenants: tenants, Entries: int(s.kept.Load()), Bytes: s.total.Load(), Memory: s.total.Load(), Limit: s.limits.Total,
		CutTenant: s.cut[ofTenant].Load(), CutAll: s.cut[ofAll].Load(),
	}
}
