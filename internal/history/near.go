package history

import (
	"context"
	"time"
)

// Near keeps the last entries of histories that a broker has, for the tenants that somebody
// here is attached to, so that what they missed is read without asking the broker. Its methods
// lock what they need.
type Near struct {
	shelves shelves
	scan    Scan
}

// Scan reads a tenant's stored entries after a place, up to another that exists, until take
// says that it is enough.
type Scan func(ctx context.Context, tenant string, after, until uint64, take func(*Entry) bool) error

// NewNear makes an empty Near. It asks for the present epoch of a tenant, and has scan read what
// it does not have.
func NewNear(limits Limits, epoch func(tenant string) Epoch, scan Scan) *Near {
	return &Near{newShelves(limits, false, epoch), scan}
}

// Take keeps what comes next in a tenant's order, if anybody is attached to it, and returns it.
// The entries are made for the epoch that the tenant has here, with its shelf locked.
func (n *Near) Take(tenant string, entriesOf func(Epoch) []*Entry) []*Entry {
	h := n.shelves.lock(tenant, true)
	defer h.mu.Unlock()
	entries := entriesOf(h.epoch)
	room := int64(0)
	if h.attached > 0 {
		room = storedSize(entries)
		n.shelves.expectLocked(h, room)
	}
	for _, e := range entries {
		switch {
		case !e.Event.Stored() || e.Cursor.Seq <= h.head:
		case h.attached == 0: // nobody has said from where on it is whole
			n.shelves.resetLocked(h, h.epoch, e.Cursor.Seq)
		default:
			n.shelves.pushLocked(h, e)
			room -= e.size()
		}
	}
	n.shelves.missLocked(h, max(0, room))
	n.shelves.evictLocked(h, time.Now())
	return entries
}

// Advance notes that a tenant has nothing else up to a place, and returns where it is now;
// false where nothing is kept of it.
func (n *Near) Advance(tenant string, place uint64) (Cursor, bool) {
	h := n.shelves.lock(tenant, false)
	if h == nil {
		return Cursor{}, false
	}
	defer h.mu.Unlock()
	h.head = max(h.head, place)
	return Cursor{h.epoch, h.head}, true
}

// Reset forgets what a tenant has here, which goes on after a place of its present epoch.
func (n *Near) Reset(tenant string, place uint64) Cursor {
	h := n.shelves.lock(tenant, true)
	defer h.mu.Unlock()
	n.shelves.resetLocked(h, n.shelves.begin(tenant), place)
	return Cursor{h.epoch, place}
}

// Attach has a tenant's entries kept from its head on, until Detach is called as often. It asks
// for the epoch of the head when nothing else can change what is kept. Where that epoch is
// over, it does nothing and returns false.
func (n *Near) Attach(tenant string, head uint64, epoch func() (Epoch, bool)) (Cursor, bool) {
	h := n.shelves.lock(tenant, true)
	defer h.mu.Unlock()
	now, ok := epoch()
	if !ok {
		return Cursor{}, false
	}
	if h.epoch != now || h.attached == 0 && h.head < head {
		n.shelves.resetLocked(h, now, head)
	}
	h.attached++
	return Cursor{h.epoch, h.head}, true
}

// Detach ends one Attach. What is kept goes with the last.
func (n *Near) Detach(tenant string) {
	h := n.shelves.lock(tenant, false)
	if h == nil {
		return
	}
	h.attached--
	last := h.attached <= 0
	if last {
		n.shelves.resetLocked(h, h.epoch, h.head)
	}
	h.mu.Unlock()
	if last {
		n.shelves.forget(tenant)
	}
}

// Whole says whether all that a reader missed after a cursor is here; a nil one reads all.
func (n *Near) Whole(tenant string, c Cursor, r *Reader) bool {
	h := n.shelves.lock(tenant, false)
	if h == nil {
		return false
	}
	defer h.mu.Unlock()
	return h.epoch == c.Epoch && h.attached > 0 && c.Seq <= h.head && h.wholeLocked(c.Seq, r)
}

// Head is the last place of a tenant; false if nobody is attached to it.
func (n *Near) Head(tenant string) (place uint64, ok bool) {
	h := n.shelves.lock(tenant, false)
	if h == nil {
		return 0, false
	}
	defer h.mu.Unlock()
	return h.head, h.attached > 0
}

// Read answers a Query from what is here. Where something is missing it returns false and a
// Fetch that brings it: the caller waits for that and asks again. Where that would not fit, or
// nobody is attached, there is no Fetch: the caller asks the broker.
func (n *Near) Read(tenant string, q Query) (page Page, ok bool, f *Fetch) {
	h := n.shelves.lock(tenant, false)
	if h == nil {
		return Page{}, false, nil
	}
	defer h.mu.Unlock()
	switch {
	case h.attached == 0:
	case h.wholeLocked(q.After, q.Reader):
		return h.readLocked(q), true, nil
	case q.After < h.far && time.Since(h.tried) < farTime: // it is more than is kept here
	default:
		f = n.fetchLocked(h, q.After)
	}
	return Page{}, false, f
}

// farTime is how long to wait before entries that did not fit are fetched again.
const farTime = time.Minute

// Fetch brings what is missing, once for all who ask for it.
type Fetch struct {
	done chan struct{} // closed when it is over
	err  error         // of scan
}

// Wait waits until it is over, and returns the error of the Scan; or the context's, if that ends
// before.
func (f *Fetch) Wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetchLocked begins to fetch what a shelf lacks after a place, or joins what is under way.
func (n *Near) fetchLocked(h *shelf, after uint64) *Fetch {
	if h.fetching == nil {
		h.fetching = &Fetch{done: make(chan struct{})}
		go n.fetch(h, h.fetching, after, h.from, h.epoch)
	}
	return h.fetching
}

// fetch reads what a shelf lacks after a place up to another, and puts it there if all of it
// fits and the shelf has not changed.
func (n *Near) fetch(h *shelf, f *Fetch, after, from uint64, epoch Epoch) {
	defer close(f.done)
	var entries []*Entry
	fits := true
	far := after + 1
	err := n.scan(context.Background(), h.tenant, after, from, func(e *Entry) bool {
		if fits = n.shelves.expect(h, e.size()); fits {
			entries = append(entries, e)
			far = e.Cursor.Seq
		}
		return fits
	})
	h.mu.Lock()
	room := storedSize(entries)
	same := err == nil && !h.forgotten && h.epoch == epoch && h.from == from && n.shelves.begin(h.tenant) == epoch
	switch {
	case same && fits:
		n.shelves.prependLocked(h, after, entries)
		room = 0
	case same:
		// It did not fit. It is tried again once a reader is past what would have fitted, or after
		// farTime.
		h.far, h.tried = far, time.Now()
	}
	n.shelves.missLocked(h, room)
	h.fetching, f.err = nil, err
	h.mu.Unlock()
	n.shelves.shrink() // others may have come meanwhile
}

// Shrink makes room where more is kept than the limits allow. It is called after Take, when
// nobody waits for what was taken.
func (n *Near) Shrink() { n.shelves.shrink() }

// Sweep forgets what has grown old.
func (n *Near) Sweep(now time.Time) { n.shelves.sweep(now) }

// Held is how many bytes are kept, with those that are being fetched.
func (n *Near) Held() int64 { return n.shelves.total.Load() }

// Stats tells what is kept.
func (n *Near) Stats() Stats { return n.shelves.stats() }
