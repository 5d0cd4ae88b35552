package history

import (
	"context"
	"time"
)

// Near keeps the last entries of histories that a broker has, of the tenants that somebody
// here is attached to: so what they miss is read without asking the broker. Each of its
// methods locks what it needs; none calls the sinks.
type Near struct {
	shelves Shelves
	scan    Scan
}

// Scan reads a tenant's stored entries after a place, up to another that exists, until take
// says that it is enough.
type Scan func(ctx context.Context, tenant string, after, until uint64, take func(*Entry) bool) error

// NewNear makes an empty one, of histories whose epochs are asked for, and which scan reads.
func NewNear(limits Limits, epoch func(tenant string) Epoch, scan Scan) *Near {
	return &Near{NewShelves(limits, false, epoch), scan}
}

// Take keeps what comes next in a tenant's order, if anybody is attached to it. The entries
// are made for the epoch that the tenant has here, and returned.
func (n *Near) Take(tenant string, entriesOf func(Epoch) []*Entry) []*Entry {
	h := n.shelves.Lock(tenant, true)
	defer h.Mu.Unlock()
	entries := entriesOf(h.Epoch)
	room := int64(0)
	if h.Attached > 0 {
		room = StoredSize(entries)
		n.shelves.ExpectLocked(h, room)
	}
	for _, e := range entries {
		switch {
		case !e.Event.Stored() || e.Cursor.Seq <= h.Head:
		case h.Attached == 0: // nobody has said from where on it is whole
			n.shelves.ResetLocked(h, h.Epoch, e.Cursor.Seq)
		default:
			n.shelves.PushLocked(h, e)
			room -= e.Size()
		}
	}
	n.shelves.MissLocked(h, max(0, room))
	n.shelves.EvictLocked(h, time.Now())
	return entries
}

// Advance notes that a tenant has nothing else up to a place, and returns where it is now;
// false where nothing is kept of it.
func (n *Near) Advance(tenant string, place uint64) (Cursor, bool) {
	h := n.shelves.Lock(tenant, false)
	if h == nil {
		return Cursor{}, false
	}
	defer h.Mu.Unlock()
	h.Head = max(h.Head, place)
	return Cursor{h.Epoch, h.Head}, true
}

// Reset forgets what a tenant has here, which goes on after a place of its present epoch.
func (n *Near) Reset(tenant string, place uint64) Cursor {
	h := n.shelves.Lock(tenant, true)
	defer h.Mu.Unlock()
	n.shelves.ResetLocked(h, n.shelves.begin(tenant), place)
	return Cursor{h.Epoch, place}
}

// Attach has a tenant's entries kept from its head on, until as many calls of Detach. The
// epoch is asked for once nothing else changes what is kept: it is that of the head, or
// false where that is of one that is over, and nothing is done.
func (n *Near) Attach(tenant string, head uint64, epoch func() (Epoch, bool)) (Cursor, bool) {
	h := n.shelves.Lock(tenant, true)
	defer h.Mu.Unlock()
	now, ok := epoch()
	if !ok {
		return Cursor{}, false
	}
	if h.Epoch != now || h.Attached == 0 && h.Head < head {
		n.shelves.ResetLocked(h, now, head)
	}
	h.Attached++
	return Cursor{h.Epoch, h.Head}, true
}

// Detach ends one Attach; with the last what is kept goes.
func (n *Near) Detach(tenant string) {
	h := n.shelves.Lock(tenant, false)
	if h == nil {
		return
	}
	h.Attached--
	last := h.Attached <= 0
	if last {
		n.shelves.ResetLocked(h, h.Epoch, h.Head)
	}
	h.Mu.Unlock()
	if last {
		n.shelves.Forget(tenant)
	}
}

// Whole says whether all that a reader misses after a cursor is here; nil reads all.
func (n *Near) Whole(tenant string, c Cursor, r *Reader) bool {
	h := n.shelves.Lock(tenant, false)
	if h == nil {
		return false
	}
	defer h.Mu.Unlock()
	return h.Epoch == c.Epoch && h.Attached > 0 && c.Seq <= h.Head && h.WholeLocked(c.Seq, r)
}

// Head is the last place of a tenant that somebody is attached to.
func (n *Near) Head(tenant string) (place uint64, ok bool) {
	h := n.shelves.Lock(tenant, false)
	if h == nil {
		return 0, false
	}
	defer h.Mu.Unlock()
	return h.Head, h.Attached > 0
}

// Read answers a Query from what is here, if that is all that it asks for. Otherwise it has
// what is missing fetched, for the caller to wait for and to ask again; or where that would
// not stay here either, there is no fetch, and the caller reads for itself.
func (n *Near) Read(tenant string, q Query) (page Page, ok bool, f *Fetch) {
	h := n.shelves.Lock(tenant, false)
	if h == nil {
		return Page{}, false, nil
	}
	defer h.Mu.Unlock()
	switch {
	case h.Attached == 0:
	case h.WholeLocked(q.After, q.Reader):
		return h.ReadLocked(q), true, nil
	case q.After < h.Far && time.Since(h.Tried) < farTime: // it is more than is kept here
	default:
		f = n.fetchLocked(h, q.After)
	}
	return Page{}, false, f
}

// farTime is for how long what did not fit is not fetched again.
const farTime = time.Minute

// Fetch brings what somebody misses, for all who miss it.
type Fetch struct {
	done chan struct{} // closed when it is over
	err  error         // of scan
}

// Wait waits until it is over, and returns the error of the Scan; or that of the context, if
// that ends before.
func (f *Fetch) Wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetchLocked begins to fetch what a shelf has not, after a place; or joins what is under way.
func (n *Near) fetchLocked(h *Shelf, after uint64) *Fetch {
	if h.Fetching == nil {
		h.Fetching = &Fetch{done: make(chan struct{})}
		go n.fetch(h, h.Fetching, after, h.From, h.Epoch)
	}
	return h.Fetching
}

func (n *Near) fetch(h *Shelf, f *Fetch, after, from uint64, epoch Epoch) {
	defer close(f.done)
	var entries []*Entry
	fits := true
	far := after + 1
	err := n.scan(context.Background(), h.Tenant, after, from, func(e *Entry) bool {
		if fits = n.shelves.Expect(h, e.Size()); fits {
			entries = append(entries, e)
			far = e.Cursor.Seq
		}
		return fits
	})
	h.Mu.Lock()
	room := StoredSize(entries)
	same := err == nil && !h.Forgotten && h.Epoch == epoch && h.From == from && n.shelves.begin(h.Tenant) == epoch
	switch {
	case same && fits:
		n.shelves.PrependLocked(h, after, entries)
		room = 0
	case same:
		// It is tried again when its client has taken as much as would have fitted.
		h.Far, h.Tried = far, time.Now()
	}
	n.shelves.MissLocked(h, room)
	h.Fetching, f.err = nil, err
	h.Mu.Unlock()
	n.shelves.Shrink() // others may have come meanwhile
}

// Shrink makes room where all that is kept is more than the limits allow. It is called after
// Take, once nobody waits for what was taken.
func (n *Near) Shrink() { n.shelves.Shrink() }

// Sweep forgets what has grown old.
func (n *Near) Sweep(now time.Time) { n.shelves.Sweep(now) }

// Held is how many bytes are kept, with those that are being fetched.
func (n *Near) Held() int64 { return n.shelves.Total.Load() }

// Stats tells what is kept.
func (n *Near) Stats() Stats { return n.shelves.Stats() }
