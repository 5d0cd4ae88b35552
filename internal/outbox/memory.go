package outbox

import (
	"context"
	"sync"
	"time"

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
	items    int
	empty    int // tenants without items
	untaken  int
	cut      int64
	follower func(tenant string, taken, newest uint64) // nil: nobody follows
}

// list is what is kept of a tenant; guarded by the Memory's mu.
type list struct {
	entries []entry
	keys    sized.Table[string, struct{}] // of entries
	newest  uint64
	taken   uint64
	last    time.Time // when the newest was put
	gone    int       // entries that were dropped since the list was copied
}

type entry struct {
	item Item
	put  time.Time
	key  string // of the last of those that were put together; empty: none
}

// Bytes that things take beside what their texts do, as measured.
const (
	listBytes  = 320
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
	m.expireLocked(tenant, l, now)
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
	m.appendLocked(tenant, l, key, entries)
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
		l = &list{newest: First(now) - 1, last: now}
		l.taken = l.newest
		m.tenants.Put(tenant, l)
		m.empty++
		m.addLocked(tenant, listBytes+sized.Text(tenant))
	}
	return l
}

// appendLocked adds entries that have their places.
func (m *Memory) appendLocked(tenant string, l *list, key string, entries []entry) {
	last := &entries[len(entries)-1]
	if key != "" {
		last.key = key
		l.keys.Put(key, struct{}{})
	}
	bytes := int64(0)
	for i := range entries {
		bytes += entries[i].bytes()
	}
	if len(l.entries) == 0 {
		m.empty--
	}
	l.entries = append(l.entries, entries...)
	l.newest, l.last = last.item.Seq, last.put
	m.items += len(entries)
	m.untaken += len(entries)
	m.addLocked(tenant, bytes)
}

func (m *Memory) addLocked(tenant string, bytes int64) {
	m.sizes.Add(tenant, bytes)
	m.held.Force(tenant, bytes)
}

// fitLocked has the tenants with most lose their oldest until all fit. First of all it forgets
// those of whom nothing is kept but their places.
func (m *Memory) fitLocked() {
	for m.limit > 0 && m.sizes.Total() > m.limit {
		if m.empty > 0 {
			m.forgetLocked(func(*list) bool { return true })
			continue
		}
		tenant, _, ok := m.sizes.Most()
		if !ok {
			return
		}
		m.dropLocked(tenant, m.tenants.Get(tenant), 1)
		m.cut++
	}
}

// expireLocked drops what is too old of a tenant.
func (m *Memory) expireLocked(tenant string, l *list, now time.Time) {
	n := 0
	for n < len(l.entries) && now.Sub(l.entries[n].put) >= TTL {
		n++
	}
	m.dropLocked(tenant, l, n)
}

// dropLocked drops the n oldest entries of a tenant.
func (m *Memory) dropLocked(tenant string, l *list, n int) {
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
	if len(l.entries) == 0 {
		m.empty++
	}
	if l.gone += n; l.gone > len(l.entries) { // else what was before them would stay
		l.entries, l.gone = append([]entry(nil), l.entries...), 0
	}
	m.items -= n
	m.addLocked(tenant, -bytes)
}

// forgetLocked forgets those tenants of whom nothing is kept but their places that it is to.
func (m *Memory) forgetLocked(which func(*list) bool) {
	for tenant, l := range m.tenants.All() {
		if len(l.entries) == 0 && which(l) {
			m.addLocked(tenant, -m.sizes.Of(tenant))
			m.tenants.Delete(tenant)
			m.empty--
		}
	}
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
	m.expireLocked(tenant, l, time.Now())
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
	return nil
}

// quiet is how long the places of a tenant are known of whom nothing is kept any more.
const quiet = 10 * TTL

// Sweep implements Box.
func (m *Memory) Sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for tenant, l := range m.tenants.All() {
		m.expireLocked(tenant, l, now)
	}
	m.forgetLocked(func(l *list) bool { return now.Sub(l.last) >= quiet })
}

// Stats implements Box.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Stats{Items: m.items, Bytes: m.sizes.Total(), Limit: m.limit, Untaken: m.untaken, Cut: m.cut}
	for l := range m.tenants.Values() {
		at := max(l.taken+1, l.oldest()) - l.oldest()
		if at < uint64(len(l.entries)) {
			if put := l.entries[at].put; s.Since.IsZero() || put.Before(s.Since) {
				s.Since = put
			}
		}
	}
	return s
}
