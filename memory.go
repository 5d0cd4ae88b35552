package main

import (
	"container/heap"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryLimits bound what a MemoryLog keeps; 0 lifts a limit.
type MemoryLimits struct {
	Events int           // a tenant: exactly the last so many are kept
	Bytes  int64         // a tenant
	TTL    time.Duration // of an event
	Total  int64         // bytes of all tenants together
	Window time.Duration // in which an id is recognised again; 0: none is
	IDs    int           // remembered at most, of all tenants together
}

// tenantBytes is the memory that a tenant's empty history takes, as measured.
const tenantBytes = 512

// sampled tenants are looked at to find a large one.
const sampled = 32

// MemoryLog is the Log that lives as long as the process.
//
// Lock order: MemoryLog.mu → history.mu → idWindow.mu. The sinks are called with
// a history's mu held.
type MemoryLog struct {
	// Static after the start.
	limits MemoryLimits
	secret []byte
	sinks  []Sink

	total atomic.Int64
	ids   idWindow

	mu sync.RWMutex
	// Guarded by mu.
	tenants map[string]*history
	floor   uint64 // no place that a forgotten history has given is given again
}

// NewMemoryLog makes an empty log.
func NewMemoryLog(limits MemoryLimits) *MemoryLog {
	l := &MemoryLog{limits: limits, secret: make([]byte, 16), tenants: map[string]*history{}}
	rand.Read(l.secret)
	l.ids = idWindow{window: limits.Window, most: limits.IDs, known: map[idKey]firstSeen{}}
	return l
}

// history is one tenant's.
type history struct {
	tenant string // static
	epoch  string // static

	bytes atomic.Int64 // changed under mu

	mu sync.Mutex
	// Guarded by mu.
	entries   queue[*Entry] // their places are consecutive, up to head
	head      uint64
	lists     lists
	attached  int
	forgotten bool
}

// oldest is the place before the first entry that is kept.
func (h *history) oldestLocked() uint64 { return h.head - uint64(h.entries.len()) }

// Follow implements Log.
func (l *MemoryLog) Follow(s Sink) { l.sinks = append(l.sinks, s) }

// epoch is of one tenant and one life of the log, so that another's cursor is
// unknown; a tenant that is forgotten and comes back has the same.
func (l *MemoryLog) epoch(tenant string) string {
	mac := hmac.New(sha256.New, l.secret)
	mac.Write([]byte(tenant))
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

// lock returns a tenant's history locked, making it when create is set; else nil
// where there is none.
func (l *MemoryLog) lock(tenant string, create bool) *history {
	for {
		l.mu.RLock()
		h := l.tenants[tenant]
		l.mu.RUnlock()
		if h == nil {
			if !create {
				return nil
			}
			l.mu.Lock()
			if h = l.tenants[tenant]; h == nil {
				h = &history{tenant: tenant, epoch: l.epoch(tenant), head: l.floor}
				l.tenants[tenant] = h
				l.account(h, tenantBytes)
			}
			l.mu.Unlock()
		}
		h.mu.Lock()
		if !h.forgotten {
			return h
		}
		h.mu.Unlock()
	}
}

func (l *MemoryLog) account(h *history, n int64) {
	h.bytes.Add(n)
	l.total.Add(n)
}

// Append implements Log; it does not fail.
func (l *MemoryLog) Append(_ context.Context, entries []*Entry) error {
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

func (l *MemoryLog) append(tenant string, entries []*Entry) {
	h := l.lock(tenant, true)
	fresh := entries
	for i, e := range entries {
		l.place(h, e)
		if e.Duplicate && len(fresh) == len(entries) {
			fresh = slices.Clone(entries[:i])
		} else if !e.Duplicate && len(fresh) < i {
			fresh = append(fresh, e)
		}
	}
	l.evictLocked(h, entries[0].Event.Timestamp)
	if len(fresh) > 0 {
		for _, s := range l.sinks {
			s.Deliver(tenant, fresh)
		}
	}
	h.mu.Unlock()
	if len(fresh) > 0 {
		for _, s := range l.sinks {
			s.Flush(tenant)
		}
	}
	l.shrink()
}

// place gives e its place in h, which is locked, unless it is a duplicate.
func (l *MemoryLog) place(h *history, e *Entry) {
	var at uint64
	if e.Event.Stored() {
		at = h.head + 1
	}
	if e.Chosen {
		if first, known := l.ids.claim(idKey{h.tenant, e.Event.ID}, firstSeen{at, e.Event.Timestamp}); known {
			e.Duplicate, e.FirstAt = true, first.at
			if at = first.seq; at > 0 {
				e.Cursor = Cursor{h.epoch, at}
			}
			return
		}
	}
	if at == 0 {
		return
	}
	e.Cursor = Cursor{h.epoch, at}
	h.head = at
	h.entries.push(e)
	h.lists.add(e.Event, at)
	l.account(h, e.Size())
}

// evictLocked drops what is past the tenant's limits.
func (l *MemoryLog) evictLocked(h *history, now time.Time) {
	for h.entries.len() > 0 {
		old := l.limits.TTL > 0 && now.Sub(h.entries.at(0).Event.Timestamp) >= l.limits.TTL
		many := l.limits.Events > 0 && h.entries.len() > l.limits.Events
		large := l.limits.Bytes > 0 && h.bytes.Load() > l.limits.Bytes
		if !old && !many && !large {
			return
		}
		l.dropLocked(h)
	}
}

// dropLocked drops the oldest entry.
func (l *MemoryLog) dropLocked(h *history) {
	e := h.entries.pop()
	h.lists.remove(e.Event)
	l.account(h, -e.Size())
}

// shrink brings all tenants together below their limit: a large one loses its
// oldest first, so that a busy tenant does not cost the others their history.
func (l *MemoryLog) shrink() {
	for range sampled {
		excess := l.total.Load() - l.limits.Total
		if l.limits.Total <= 0 || excess <= 0 {
			return
		}
		h := l.lock(l.large(), false)
		if h == nil {
			continue
		}
		goal := h.bytes.Load() - min(excess, h.bytes.Load()/4+1)
		for h.entries.len() > 0 && h.bytes.Load() > goal {
			l.dropLocked(h)
		}
		empty := h.entries.len() == 0
		h.mu.Unlock()
		if empty {
			l.forget(h.tenant)
		}
	}
}

// large is the largest of some tenants.
func (l *MemoryLog) large() (name string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n, most := 0, int64(-1)
	for tenant, h := range l.tenants { // Go begins anywhere
		if bytes := h.bytes.Load(); bytes > most {
			name, most = tenant, bytes
		}
		if n++; n == sampled {
			break
		}
	}
	return name
}

// forget drops a history that is empty and that no hub serves.
func (l *MemoryLog) forget(tenant string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.tenants[tenant]
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.entries.len() > 0 || h.attached > 0 {
		return
	}
	h.forgotten = true
	l.floor = max(l.floor, h.head)
	delete(l.tenants, tenant)
	l.account(h, -h.bytes.Load())
}

// Attach implements Log.
func (l *MemoryLog) Attach(_ context.Context, tenant string) (Cursor, error) {
	h := l.lock(tenant, true)
	defer h.mu.Unlock()
	h.attached++
	return Cursor{h.epoch, h.head}, nil
}

// Detach implements Log.
func (l *MemoryLog) Detach(tenant string) {
	if h := l.lock(tenant, false); h != nil {
		h.attached--
		h.mu.Unlock()
	}
}

// look returns a tenant's history without what has grown old, locked; one that
// does not exist looks like an empty one, and is not made.
func (l *MemoryLog) look(tenant string) *history {
	h := l.lock(tenant, false)
	if h == nil {
		l.mu.RLock()
		h = &history{epoch: l.epoch(tenant), head: l.floor}
		l.mu.RUnlock()
		h.mu.Lock()
	}
	l.evictLocked(h, time.Now())
	return h
}

// Find implements Log.
func (l *MemoryLog) Find(_ context.Context, tenant, cursor string) (Cursor, error) {
	h := l.look(tenant)
	defer h.mu.Unlock()
	oldest := Cursor{h.epoch, h.oldestLocked()}
	if cursor == "" {
		return oldest, nil
	}
	c, ok := ParseCursor(cursor)
	switch {
	case !ok || c.Epoch != h.epoch || c.Seq > h.head:
		return Cursor{h.epoch, h.head}, ErrUnknownCursor
	case c.Seq < oldest.Seq:
		return oldest, ErrExpired
	}
	return c, nil
}

// Read implements Log.
func (l *MemoryLog) Read(_ context.Context, tenant string, q Query) (Page, error) {
	h := l.look(tenant)
	defer h.mu.Unlock()
	oldest := h.oldestLocked()
	if q.After < oldest {
		return Page{Next: Cursor{h.epoch, oldest}}, ErrExpired
	}
	places := runs{}
	if q.Reader == nil {
		places.whole(q.After+1, h.head)
	} else {
		h.lists.find(&places, q.Reader, q.After)
	}
	page := Page{Next: Cursor{h.epoch, h.head}}
	for bytes, last := 0, uint64(0); ; {
		seq, ok := places.next()
		if !ok {
			return page, nil
		}
		if seq == last {
			continue
		}
		last = seq
		e := h.entries.at(int(seq - oldest - 1))
		bytes += len(e.Envelope)
		if n := len(page.Entries); n > 0 && (q.Limit > 0 && n == q.Limit || q.Bytes > 0 && bytes > q.Bytes) {
			page.Next = page.Entries[n-1].Cursor
			return page, nil
		}
		page.Entries = append(page.Entries, e)
	}
}

// Sweep implements Log.
func (l *MemoryLog) Sweep(now time.Time) {
	l.ids.expire(now)
	l.mu.RLock()
	tenants := make([]*history, 0, len(l.tenants))
	for _, h := range l.tenants {
		tenants = append(tenants, h)
	}
	l.mu.RUnlock()
	for _, h := range tenants {
		h.mu.Lock()
		l.evictLocked(h, now)
		empty := h.entries.len() == 0 && h.attached == 0
		h.mu.Unlock()
		if empty {
			l.forget(h.tenant)
		}
	}
}

// Stats implements Log.
func (l *MemoryLog) Stats() LogStats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	stats := LogStats{Tenants: len(l.tenants), Bytes: l.total.Load()}
	for _, h := range l.tenants {
		h.mu.Lock()
		stats.Entries += h.entries.len()
		h.mu.Unlock()
	}
	stats.IDs, stats.LostIDs = l.ids.count()
	return stats
}

// queue is first in, first out; what left the front is freed as it grows.
type queue[T any] struct{ items []T }

func (q *queue[T]) len() int   { return len(q.items) }
func (q *queue[T]) at(i int) T { return q.items[i] }
func (q *queue[T]) push(x T)   { q.items = append(q.items, x) }
func (q *queue[T]) pop() T {
	x := q.items[0]
	clear(q.items[:1])
	if q.items = q.items[1:]; len(q.items) == 0 {
		q.items = nil
	}
	return x
}

// lists are the places of entries by whom they are for, so that a reader finds
// its own without looking at anybody else's.
type lists struct {
	tenant   queue[uint64]
	profiles map[ProfileRef]queue[uint64]
	rooms    map[Room]queue[uint64]
}

func (l *lists) add(e *Event, at uint64) {
	if e.Target.Kind == KindTenant {
		l.tenant.push(at)
		return
	}
	if l.profiles == nil {
		l.profiles, l.rooms = map[ProfileRef]queue[uint64]{}, map[Room]queue[uint64]{}
	}
	if room, ok := e.Target.Room(); ok {
		pushTo(l.rooms, room, at)
	}
	for _, p := range e.Target.Profiles {
		pushTo(l.profiles, p, at)
	}
}

func pushTo[K comparable](m map[K]queue[uint64], k K, at uint64) {
	q := m[k]
	q.push(at)
	m[k] = q
}

// remove takes the oldest entry's places out, the first of each of its lists.
func (l *lists) remove(e *Event) {
	if e.Target.Kind == KindTenant {
		l.tenant.pop()
	}
	if room, ok := e.Target.Room(); ok {
		popFrom(l.rooms, room)
	}
	for _, p := range e.Target.Profiles {
		popFrom(l.profiles, p)
	}
}

func popFrom[K comparable](m map[K]queue[uint64], k K) {
	q := m[k]
	q.pop()
	if m[k] = q; q.len() == 0 {
		delete(m, k)
	}
}

func (l *lists) find(to *runs, r *Reader, after uint64) {
	to.add(l.tenant.items, after, 0)
	to.add(l.profiles[r.Profile].items, after, 0)
	for _, stay := range r.Rooms {
		to.add(l.rooms[stay.Room].items, max(after, stay.From), stay.Until)
	}
	heap.Init(to)
}

// runs are ascending places from several lists, taken in one order.
type runs struct {
	lists    [][]uint64
	from, to uint64 // instead of lists, all of these
}

func (r *runs) whole(from, to uint64) { r.from, r.to = from, to }

// add takes a list's places after one, and up to another unless that is 0.
func (r *runs) add(list []uint64, after, until uint64) {
	if len(list) == 0 || list[len(list)-1] <= after {
		return
	}
	first, _ := slices.BinarySearch(list, after+1)
	list = list[first:]
	if until > 0 && list[len(list)-1] > until {
		end, _ := slices.BinarySearch(list, until+1)
		list = list[:end]
	}
	if len(list) > 0 {
		r.lists = append(r.lists, list)
	}
}

func (r *runs) next() (uint64, bool) {
	if len(r.lists) == 0 {
		seq := r.from
		r.from++
		return seq, seq > 0 && seq <= r.to
	}
	seq := r.lists[0][0]
	if r.lists[0] = r.lists[0][1:]; len(r.lists[0]) == 0 {
		heap.Pop(r)
	} else {
		heap.Fix(r, 0)
	}
	return seq, true
}

func (r *runs) Len() int           { return len(r.lists) }
func (r *runs) Less(i, j int) bool { return r.lists[i][0] < r.lists[j][0] }
func (r *runs) Swap(i, j int)      { r.lists[i], r.lists[j] = r.lists[j], r.lists[i] }
func (r *runs) Push(x any)         { r.lists = append(r.lists, x.([]uint64)) }
func (r *runs) Pop() any {
	end := len(r.lists) - 1
	list := r.lists[end]
	r.lists = r.lists[:end]
	return list
}

// idWindow remembers chosen ids for a while.
type idWindow struct {
	window time.Duration // static
	most   int           // static

	mu sync.Mutex
	// Guarded by mu.
	known map[idKey]firstSeen
	order queue[idKey] // the first who came first
	lost  int
}

type idKey struct{ tenant, id string }

// firstSeen is the first event of an id: its place, 0 when it was not stored.
type firstSeen struct {
	seq uint64
	at  time.Time
}

// claim remembers an id as first, unless another was first within the window.
func (w *idWindow) claim(key idKey, this firstSeen) (first firstSeen, known bool) {
	if w.window <= 0 {
		return this, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expireLocked(this.at)
	if first, known = w.known[key]; known {
		return first, true
	}
	if w.most > 0 && w.order.len() >= w.most {
		delete(w.known, w.order.pop())
		w.lost++
	}
	w.known[key] = this
	w.order.push(key)
	return this, false
}

func (w *idWindow) expire(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expireLocked(now)
}

func (w *idWindow) expireLocked(now time.Time) {
	for w.order.len() > 0 && now.Sub(w.known[w.order.at(0)].at) >= w.window {
		delete(w.known, w.order.pop())
	}
}

func (w *idWindow) count() (ids, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.order.len(), w.lost
}
