package history

// All shelves together have a budget, Limits.Total. When it is overdrawn, the tenant with most
// loses its oldest entries until another has as much, so a tenant below its share loses none.
// Entries that are expected are counted before they arrive, when they cannot be removed yet.
// Meanwhile their shelf owes as many bytes: it pays them with its own entries once the expected
// ones are there, so that other tenants do not pay for them.

// owedStep is how many bytes more a shelf owes at a time, about as few as an entry has.
const owedStep = 4 << 10

// shelfBytes is the memory that a tenant's empty shelf takes, as measured.
const shelfBytes = 880

// account counts n bytes more of a shelf, which is locked or not yet known to anybody else. It
// also cancels what the shelf owes for entries that have arrived.
func (s *shelves) account(h *shelf, n int64) {
	paid := max(0, h.owed-h.coming)
	if n == 0 && paid == 0 {
		return
	}
	h.bytes += n
	s.total.Add(n)
	s.owe(h, -paid)
}

// owe adds to what a shelf owes.
func (s *shelves) owe(h *shelf, n int64) {
	h.owed += n
	s.owed.Add(n)
	if s.limits.Total > 0 {
		s.ranking.Lock()
		s.sizes.Set(h, h.bytes-shelfBytes-h.owed)
		s.ranking.Unlock()
	}
}

// full says that the budget is overdrawn, and would be even if all that is owed were paid.
func (s *shelves) full() bool {
	return s.limits.Total > 0 && s.total.Load()-s.owed.Load() > s.limits.Total
}

// most is the shelf of which most could go, and how much; nil where there is none.
func (s *shelves) most() (h *shelf, bytes int64) {
	s.ranking.Lock()
	defer s.ranking.Unlock()
	h, bytes, _ = s.sizes.Most()
	return h, bytes
}

// expectLocked counts the bytes of entries that are to come, and makes room for them. It may
// unlock the shelf meanwhile, which is not forgotten until they have come or are missed.
func (s *shelves) expectLocked(h *shelf, n int64) {
	h.coming += n
	s.account(h, n)
	if n > 0 && s.full() {
		h.mu.Unlock()
		s.shrink()
		h.mu.Lock()
	}
}

// missLocked no longer counts bytes that were expected and do not come.
func (s *shelves) missLocked(h *shelf, n int64) {
	n = min(n, h.coming)
	h.coming -= n
	s.account(h, -n)
}

// expect is expectLocked for entries that can be read elsewhere as well. It returns false, and
// expects nothing, where some of the shelf itself would have to go for them.
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

// shrink makes room while the budget is overdrawn and anything can go.
func (s *shelves) shrink() {
	for s.full() {
		h, _ := s.most()
		if h == nil || !s.takeFrom(h) {
			return
		}
	}
}

// takeFrom takes from a shelf as long as it has most, and says whether there was anything to
// take.
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

// takeLocked takes an entry, or else what the shelf remembers of those that have gone, or has
// it owe more; false where there is nothing of these.
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

// clearLocked forgets which readers have lost something: all may have.
func (s *shelves) clearLocked(h *shelf) {
	s.account(h, -int64(h.dropped.len())*droppedBytes)
	h.dropped = dropped{floor: h.from}
}
