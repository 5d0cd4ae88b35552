package outbox

import (
	"context"
	"sync"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/largest"
	"realtimehub/internal/quota"
	"realtimehub/internal/sized"
)

// Memory is a Box that ends with the process.
type Memory struct {
	// Static.
	limit int64
	held  *quota.Pool[string]

	mu sync.Mutex
	// Guarded by mu.
	tenants  sized.Table[string, *list]
	sizes    largest.Sizes[string] // bytes of lists
	full     due.Queue[*list]      // those with entries, by when the oldest was put
	quiet    due.Queue[*list]      // those without, by when the newest was
	waiting  due.Queue[*waits]     // those with entries that were not taken, by when the oldest of those was put
	items    int
	untaken  int
	highest  uint64 // place of a tenant that was forgotten
	cut      int64
	follower func(tenant string, taken, newest uint64) // nil: nobody follows
}

// list is what is kept of a tenant; guarded by the Memory's mu.
type list struct {
	tenant  string
	entries []entry
	keys    sized.Table[string, struct{}] // of entries
	newest  uint64
	taken   uint64
	last    time.Time // when the newest was put
	gone    int       // entries that were dropped since the list was copied

	in    *due.Queue[*list] // where it is
	due   due.Item          // there
	waits waits
}

// waits is a list as one of those that wait for the webhook.
type waits struct{ due due.Item }

// Due implements due.Owner.
func (l *list) Due() *due.Item { return &l.due }

// Due implements due.Owner.
func (w *waits) Due() *due.Item { return &w.due }

type entry struct {
	item Item
	put  time.Time
	key  string // of the last of those that were put together; empty: none
}

// Bytes that things take beside what their texts do, as measured.
const (
	listBytes  = 360
	entryBytes = 176 // an entry, with half as much again for the list's growth
	keyBytes   = 72
)

func (e *entry) bytes() int64 {
	n := entryBytes + sized.Block(cap(e.item.Data))
	if e.key != "" {
		n += keyBytes + sized.Text(e.key)
	}
	return n
}

// MemoryConfig is what a Memory may take.
type MemoryConfig struct {
	Bytes int64               // past it the tenants with most lose their oldest items; 0: no limit
	Held  *quota.Pool[string] // where it is counted, by tenant; nil: nowhere
}

// NewMemory makes a Box in memory.
func NewMemory(cfg MemoryConfig) *Memory { return &Memory{limit: cfg.Bytes, held: cfg.Held} }

// Put implements Box.
func (m *Memory) Put(_ context.Context, tenant, key string, drafts []Draft) error {
	if len(drafts) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	l := m.listLocked(tenant, now)
	m.expireLocked(l, now)
	if _, known := l.keys.Find(key); known {
		return nil
	}
	entries := make([]entry, len(drafts))
	for i := range drafts {
		item, err := drafts[i].Place(tenant, l.newest+1+uint64(i))
		if err != nil {
			return err
		}
		entries[i] = entry{item: item, put: now}
	}
	m.appendLocked(l, key, entries)
	m.fitLocked()
	if m.follower != nil {
		m.follower(tenant, l.taken, l.newest)
	}
	return nil
}

// listLocked is a tenant's list, which is made if there is none.
func (m *Memory) listLocked(tenant string, now time.Time) *list {
	l := m.tenants.Get(tenant)
	if l == nil {
		l = &list{tenant: tenant, newest: max(First(now)-1, m.highest), last: now}
		l.taken = l.newest
		m.tenants.Put(tenant, l)
		m.settleLocked(l)
		m.addLocked(tenant, listBytes+sized.Text(tenant))
	}
	return l
}

// settleLocked puts a list where it belongs, now that its entries have changed.
func (m *Memory) settleLocked(l *list) {
	in, at := &m.quiet, l.last
	if len(l.entries) > 0 {
		in, at = &m.full, l.entries[0].put
	}
	if l.in != nil && l.in != in {
		l.in.Set(l, time.Time{})
	}
	l.in = in
	in.Set(l, at)
	if next := l.next(); next != nil {
		m.waiting.Set(&l.waits, next.put)
	} else {
		m.waiting.Set(&l.waits, time.Time{})
	}
}

// next is the oldest entry that was not taken; nil: there is none.
func (l *list) next() *entry {
	if at := max(l.taken+1, l.oldest()) - l.oldest(); at < uint64(len(l.entries)) {
		return &l.entries[at]
	}
	return nil
}

// appendLocked adds entries that have their places.
func (m *Memory) appendLocked(l *list, key string, entries []entry) {
	last := &entries[len(entries)-1]
	if key != "" {
		last.key = key
		l.keys.Put(key, struct{}{})
	}
	bytes := int64(0)
	for i := range entries {
		bytes += entries[i].bytes()
	}
	l.entries = append(l.entries, entries...)
	l.newest, l.last = last.item.Seq, last.put
	m.items += len(entries)
	m.untaken += len(entries)
	m.settleLocked(l)
	m.addLocked(l.tenant, bytes)
}

func (m *Memory) addLocked(tenant string, bytes int64) {
	m.sizes.Add(tenant, bytes)
	m.held.Force(tenant, bytes)
}

// fitLocked has the tenants with most lose their oldest until all fit. Before that it forgets
// those of whom nothing is kept but their places, the most quiet first.
func (m *Memory) fitLocked() {
	for m.limit > 0 && m.sizes.Total() > m.limit {
		if m.quiet.Len() > 0 {
			l, _ := m.quiet.First()
			m.forgetLocked(l)
			continue
		}
		tenant, _, ok := m.sizes.Most()
		if !ok {
			return
		}
		m.dropLocked(m.tenants.Get(tenant), 1)
		m.cut++
	}
}

// expireLocked drops what is too old of a list.
func (m *Memory) expireLocked(l *list, now time.Time) {
	n := 0
	for n < len(l.entries) && now.Sub(l.entries[n].put) >= TTL {
		n++
	}
	m.dropLocked(l, n)
}

// dropLocked drops the n oldest entries of a list.
func (m *Memory) dropLocked(l *list, n int) {
	if n == 0 {
		return
	}
	bytes := int64(0)
	for i := range l.entries[:n] {
		e := &l.entries[i]
		bytes += e.bytes()
		if e.key != "" {
			l.keys.Delete(e.key)
		}
		if e.item.Seq > l.taken {
			m.untaken--
		}
	}
	clear(l.entries[:n])
	l.entries = l.entries[n:]
	if l.gone += n; l.gone > len(l.entries) { // else what was before them would stay
		l.entries, l.gone = append([]entry(nil), l.entries...), 0
	}
	m.items -= n
	m.settleLocked(l)
	m.addLocked(l.tenant, -bytes)
}

// forgetLocked forgets a tenant of whom nothing is kept but its places.
func (m *Memory) forgetLocked(l *list) {
	m.quiet.Set(l, time.Time{})
	m.highest = max(m.highest, l.newest)
	m.addLocked(l.tenant, -m.sizes.Of(l.tenant))
	m.tenants.Delete(l.tenant)
}

// oldest is the first place that is kept, or that will be given.
func (l *list) oldest() uint64 { return l.newest + 1 - uint64(len(l.entries)) }

// Read implements Box.
func (m *Memory) Read(_ context.Context, tenant string, q Query) (Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.tenants.Get(tenant)
	if l == nil {
		return Page{}, nil
	}
	m.expireLocked(l, time.Now())
	page := Page{Oldest: l.oldest(), Newest: l.newest}
	from := 0
	if q.After >= page.Oldest && q.After <= page.Newest {
		from = int(q.After + 1 - page.Oldest)
	}
	bytes := 0
	for i := from; i < len(l.entries) && len(page.Items) < q.Limit; i++ {
		item := l.entries[i].item
		if bytes += len(item.Data); q.Bytes > 0 && bytes > q.Bytes && len(page.Items) > 0 {
			break
		}
		page.Items = append(page.Items, item)
	}
	return page, nil
}

// Lead implements Box: there is no other process.
func (m *Memory) Lead(ctx context.Context, do func(ctx context.Context)) {
	do(ctx)
	<-ctx.Done()
}

// Follow implements Box.
func (m *Memory) Follow(_ context.Context, more func(tenant string, taken, newest uint64)) (stop func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follower = more
	for tenant, l := range m.tenants.All() {
		if l.taken < l.newest {
			more(tenant, l.taken, l.newest)
		}
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.follower = nil
	}, nil
}

// Taken implements Box.
func (m *Memory) Taken(_ context.Context, tenant string, seq uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.tenants.Get(tenant)
	if l == nil {
		return nil
	}
	was := max(l.taken, l.oldest()-1)
	l.taken = max(l.taken, min(seq, l.newest))
	m.untaken -= int(max(l.taken, was) - was)
	m.settleLocked(l)
	return nil
}

// quietTTL is how long the places of a tenant are known of whom nothing is kept any more.
const quietTTL = 10 * TTL

// Sweep implements Box.
func (m *Memory) Sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for l, ok := m.full.Next(now.Add(-TTL)); ok; l, ok = m.full.Next(now.Add(-TTL)) {
		m.expireLocked(l, now)
	}
	for l, ok := m.quiet.Next(now.Add(-quietTTL)); ok; l, ok = m.quiet.Next(now.Add(-quietTTL)) {
		m.forgetLocked(l)
	}
}

// Stats implements Box.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{Items: m.items, Bytes: m.sizes.Total(), Limit: m.limit, Untaken: m.untaken, Cut: m.cut}
	if m.waiting.Len() > 0 {
		_, s.Since = m.waiting.First()
	}
	return s
}
