package outboxtest

import "sync"

// Told is what a follower was told.
type Told struct {
	mu   sync.Mutex
	last map[string][2]uint64 // by tenant: taken, newest; guarded by mu
	n    int                  // guarded by mu
}

// More is for Follow.
func (t *Told) More(tenant string, taken, newest uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = map[string][2]uint64{}
	}
	t.last[tenant] = [2]uint64{taken, newest}
	t.n++
}

// Of is what was told of a tenant last; zeros: nothing.
func (t *Told) Of(tenant string) (taken, newest uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[tenant][0], t.last[tenant][1]
}

// Times is how often something was told.
func (t *Told) Times() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// Behind says whether it was told last that a tenant has so many items which were not taken.
func (t *Told) Behind(tenant string, n uint64) bool {
	taken, newest := t.Of(tenant)
	return newest > 0 && newest-taken == n
}
