package delivery

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"realtimehub/internal/largest"
)

// ledger is what is known of all tenants together, so that nobody has to look at all of them.
type ledger struct {
	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	prunable map[string]struct{}    // those at which Prune may find something
	streams  largest.Sizes[*tenant] // how many each has
}

func newLedger() *ledger {
	return &ledger{
		prunable: map[string]struct{}{},
		streams:  largest.Sizes[*tenant]{Before: func(a, b *tenant) bool { return a.name < b.name }},
	}
}

// mark has Prune look at a tenant.
func (l *ledger) mark(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prunable[name] = struct{}{}
}

// unmark has Prune look at it no longer.
func (l *ledger) unmark(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.prunable, name)
}

// marked are the names of those that Prune looks at.
func (l *ledger) marked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.prunable))
}

// has notes how many streams a tenant has.
func (l *ledger) has(t *tenant, streams int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams.Set(t, int64(streams))
}

// busiest are the n tenants with most streams, of those that have any.
func (l *ledger) busiest(n int) []TenantStats {
	l.mu.Lock()
	top := l.streams.Top(n)
	l.mu.Unlock()
	all := make([]TenantStats, len(top))
	for i, t := range top {
		all[i] = TenantStats{t.name, int(t.open.Load()), t.accepted.Load()}
	}
	slices.SortFunc(all, func(a, b TenantStats) int {
		return cmp.Or(cmp.Compare(b.Streams, a.Streams), cmp.Compare(a.Name, b.Name)) // it may have changed
	})
	return all
}
