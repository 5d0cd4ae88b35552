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

// ShelfBytes is the memory that a tenant's empty shelf takes, as measured.
const ShelfBytes = 832

// Shelves keep the last entries of tenants in memory, within limits, so that a
// reader finds what is for it without looking at anybody else's.
//
// Lock order: Shelf.Mu → Shelves.Mu → Shelves.ranking; nobody holds two shelves.
type Shelves struct {
	Limits Limits                    // static
	begin  func(tenant string) Epoch // static: a new shelf's
	rises  bool                      // static: no place is given twice, whatever is forgotten

	Total atomic.Int64
	kept  atomic.Int64         // entries
	owed  atomic.Int64         // of that: what goes as soon as it has come
	cut   [bounds]atomic.Int64 // entries that went before their time, by the bound that they were past

	ranking sync.Mutex
	sizes   largest.Sizes[*Shelf] // guarded by ranking: what could go of each, now or when it has come

	Mu sync.RWMutex
	// Guarded by mu.
	tenants    map[string]*Shelf
	Young, Old map[string]grave // of those that were forgotten, if places must rise
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
	GraveBytes = 240    // that one takes in memory, of a tenant with a long name
	mostGraves = 65_536 // in one generation
)

func NewShelves(limits Limits, rises bool, begin func(string) Epoch) Shelves {
	return Shelves{Limits: limits, begin: begin, rises: rises, tenants: map[string]*Shelf{}}
}

// most is how many things of a size fit in a small part of so many bytes; no limit is 0.
func most(n int, size, bytes int64) int {
	if bytes > 0 {
		n = int(max(1, min(int64(n), bytes/8/size)))
	}
	return n
}

// Lock returns a tenant's shelf locked, making it when create is set; else nil
// where there is none.
func (s *Shelves) Lock(tenant string, create bool) *Shelf {
	for {
		s.Mu.RLock()
		h := s.tenants[tenant]
		s.Mu.RUnlock()
		if h == nil {
			if !create {
				return nil
			}
			s.Mu.Lock()
			if h = s.tenants[tenant]; h == nil {
				h = s.emptyLocked(tenant)
				s.digLocked(tenant)
				s.tenants[tenant] = h
				s.account(h, ShelfBytes)
			}
			s.Mu.Unlock()
			s.Shrink()
		}
		h.Mu.Lock()
		if !h.Forgotten {
			return h
		}
		h.Mu.Unlock()
	}
}

// emptyLocked is a shelf without entries, of a tenant that may have been here before.
func (s *Shelves) emptyLocked(tenant string) *Shelf {
	g := grave{s.floor, s.floor}
	for _, graves := range []map[string]grave{s.Old, s.Young} {
		if last, ok := graves[tenant]; ok {
			g = last
		}
	}
	return &Shelf{Tenant: tenant, Epoch: s.begin(tenant), Head: g.head, From: g.from, Dropped: Dropped{floor: g.from}}
}

// buryLocked remembers a shelf that is forgotten; of many the first are not.
func (s *Shelves) buryLocked(h *Shelf) {
	if !s.rises || h.Head == 0 {
		return
	}
	if s.Young == nil {
		s.Young = map[string]grave{}
	}
	s.Young[h.Tenant] = grave{h.From, h.Head}
	s.Total.Add(GraveBytes)
	if len(s.Young) < most(mostGraves, GraveBytes, s.Limits.Total) {
		return
	}
	for _, g := range s.Old {
		s.floor = max(s.floor, g.head)
	}
	s.Total.Add(-GraveBytes * int64(len(s.Old)))
	s.Old, s.Young = s.Young, nil
}

// digLocked forgets the grave of who is back.
func (s *Shelves) digLocked(tenant string) {
	before := len(s.Young) + len(s.Old)
	delete(s.Young, tenant)
	delete(s.Old, tenant)
	s.Total.Add(GraveBytes * int64(len(s.Young)+len(s.Old)-before))
}

// account counts bytes of a shelf that nobody else has now. What has come is no longer
// owed: it can go.
func (s *Shelves) account(h *Shelf, n int64) {
	paid := max(0, h.owed-h.Coming)
	if n == 0 && paid == 0 {
		return
	}
	h.Bytes += n
	s.Total.Add(n)
	s.owe(h, -paid)
}

// owe has so many bytes more of what is to come go as soon as it has.
func (s *Shelves) owe(h *Shelf, n int64) {
	h.owed += n
	s.owed.Add(n)
	if s.Limits.Total > 0 {
		s.ranking.Lock()
		s.sizes.Set(h, h.Bytes-ShelfBytes-h.owed)
		s.ranking.Unlock()
	}
}

// full says that all have more than they may, without what goes anyway.
func (s *Shelves) full() bool {
	return s.Limits.Total > 0 && s.Total.Load()-s.owed.Load() > s.Limits.Total
}

// most is the shelf of which most could go; nil where nothing could.
func (s *Shelves) most() (h *Shelf, bytes int64) {
	s.ranking.Lock()
	defer s.ranking.Unlock()
	h, bytes, _ = s.sizes.Most()
	return h, bytes
}

// ExpectLocked counts the bytes of entries that are to come, and makes room for them
// before they are there. It lets go of the shelf meanwhile, which is not forgotten until
// they were pushed or are no longer expected.
func (s *Shelves) ExpectLocked(h *Shelf, n int64) {
	h.Coming += n
	s.account(h, n)
	if n > 0 && s.full() {
		h.Mu.Unlock()
		s.Shrink()
		h.Mu.Lock()
	}
}

// MissLocked is for bytes that were expected and do not come.
func (s *Shelves) MissLocked(h *Shelf, n int64) {
	n = min(n, h.Coming)
	h.Coming -= n
	s.account(h, -n)
}

// Expect is ExpectLocked for what can be had from elsewhere as well: it says that there
// is no room, where some of the shelf itself would have to go for it.
func (s *Shelves) Expect(h *Shelf, n int64) bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if s.Limits.Bytes > 0 && h.Bytes+n > s.Limits.Bytes {
		return false
	}
	if s.Limits.Total > 0 && s.Total.Load()+n > s.Limits.Total {
		if other, most := s.most(); other == h || h.Bytes-ShelfBytes+n >= most {
			return false
		}
	}
	s.ExpectLocked(h, n)
	return true
}

// PushLocked adds the next entry.
func (s *Shelves) PushLocked(h *Shelf, e *Entry) {
	h.Head = e.Cursor.Seq
	h.Entries.Push(e)
	s.kept.Add(1)
	before := h.Lists.Weight()
	h.Lists.add(e.Event, h.gone+uint64(h.Entries.Len()))
	size := e.Size()
	expected := min(size, h.Coming)
	h.Coming -= expected
	s.account(h, size-expected+h.Lists.Weight()-before) // lists may even take less than before
}

// PrependLocked adds what comes before from, after a place.
func (s *Shelves) PrependLocked(h *Shelf, after uint64, entries []*Entry) {
	entries = append(entries, h.Entries.Items...)
	head, dropped := h.Head, h.Dropped
	s.ResetLocked(h, h.Epoch, after)
	h.Dropped = dropped
	s.account(h, int64(dropped.Len())*DroppedBytes)
	for _, e := range entries {
		s.PushLocked(h, e)
	}
	h.Head = max(h.Head, head)
}

// ResetLocked empties a shelf, which is whole from a place on.
func (s *Shelves) ResetLocked(h *Shelf, epoch Epoch, place uint64) {
	s.account(h, ShelfBytes+h.Coming-h.Bytes)
	s.kept.Add(-int64(h.Entries.Len()))
	h.Entries, h.Lists, h.gone, h.Dropped = Queue[*Entry]{}, lists{}, 0, Dropped{floor: place}
	h.Epoch, h.From, h.Head, h.Far = epoch, place, place, 0
}

// EvictLocked drops what is past the tenant's limits.
func (s *Shelves) EvictLocked(h *Shelf, now time.Time) {
	for h.Entries.Len() > 0 {
		old := s.Limits.TTL > 0 && now.Sub(h.Entries.At(0).Event.Timestamp) >= s.Limits.TTL
		many := s.Limits.Events > 0 && h.Entries.Len() > s.Limits.Events
		large := s.Limits.Bytes > 0 && h.Bytes-h.Coming > s.Limits.Bytes
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
func (s *Shelves) dropLocked(h *Shelf) {
	e := h.Entries.Pop()
	s.kept.Add(-1)
	h.gone++
	h.From = e.Cursor.Seq
	before := h.Lists.Weight()
	h.Lists.remove(e.Event)
	more := h.Dropped.Note(e.Event, e.Cursor.Seq, most(MostDropped, DroppedBytes, s.Limits.Bytes))
	s.account(h, int64(more)*DroppedBytes-e.Size()+h.Lists.Weight()-before)
}

// clearLocked forgets who lost what.
func (s *Shelves) clearLocked(h *Shelf) {
	s.account(h, -int64(h.Dropped.Len())*DroppedBytes)
	h.Dropped = Dropped{floor: h.From}
}

// Shrink makes room where all together have more than they may. Whoever has most loses
// its oldest, until another has as much: so nobody does who has less than its share. What
// has not come yet cannot go: its shelf owes it, so that others pay neither for it nor
// less for themselves.
func (s *Shelves) Shrink() {
	for s.full() {
		h, _ := s.most()
		if h == nil || !s.takeFrom(h) {
			return
		}
	}
}

// takeFrom takes from a shelf as long as it has most; it says whether there was
// anything to take.
func (s *Shelves) takeFrom(h *Shelf) bool {
	h.Mu.Lock()
	some := true
	for some && s.full() {
		if other, _ := s.most(); other != h {
			break
		}
		some = s.takeLocked(h)
	}
	empty := h.Entries.Len() == 0
	h.Mu.Unlock()
	if empty {
		s.Forget(h.Tenant)
	}
	return some
}

func (s *Shelves) takeLocked(h *Shelf) bool {
	before := h.Bytes
	switch {
	case h.Entries.Len() > 0:
		s.cut[ofAll].Add(1)
		s.dropLocked(h)
		if h.Bytes >= before { // to remember who lost it takes more than it did
			s.clearLocked(h)
		}
	case h.Dropped.Len() > 0:
		s.clearLocked(h)
	case h.Coming > h.owed:
		s.owe(h, min(h.Coming-h.owed, owedStep))
	default:
		return false
	}
	return true
}

// Forget drops a shelf that is empty and that nobody is attached to. Who waits for one that
// is busy holds nothing that others need.
func (s *Shelves) Forget(tenant string) {
	h := s.Lock(tenant, false)
	if h == nil {
		return
	}
	defer h.Mu.Unlock()
	if h.Entries.Len() > 0 || h.Attached > 0 || h.Coming > 0 {
		return
	}
	h.Forgotten = true
	s.Mu.Lock()
	s.buryLocked(h)
	delete(s.tenants, tenant)
	s.Mu.Unlock()
	s.account(h, -h.Bytes)
}

// Sweep drops what has grown old, and the shelves that nobody needs.
func (s *Shelves) Sweep(now time.Time) {
	for _, h := range s.All() {
		h.Mu.Lock()
		s.EvictLocked(h, now)
		empty := h.Entries.Len() == 0 && h.Attached == 0
		h.Mu.Unlock()
		if empty {
			s.Forget(h.Tenant)
		}
	}
}

func (s *Shelves) All() []*Shelf {
	s.Mu.RLock()
	defer s.Mu.RUnlock()
	all := make([]*Shelf, 0, len(s.tenants))
	for _, h := range s.tenants {
		all = append(all, h)
	}
	return all
}

// Stats waits for no shelf that is busy.
func (s *Shelves) Stats() Stats {
	s.Mu.RLock()
	tenants := len(s.tenants)
	s.Mu.RUnlock()
	return Stats{
		Tenants: tenants, Entries: int(s.kept.Load()), Bytes: s.Total.Load(), Memory: s.Total.Load(), Limit: s.Limits.Total,
		CutTenant: s.cut[ofTenant].Load(), CutAll: s.cut[ofAll].Load(),
	}
}
