package history

import (
	"container/heap"
	"math"
	"sort"
	"sync"
	"time"
)

// Shelf is one tenant's.
type Shelf struct {
	Tenant string // static

	Mu sync.Mutex
	// Guarded by mu.
	Bytes     int64 // all that is counted
	Coming    int64 // of those, for entries that are not there yet
	owed      int64 // of those: as much goes of the shelf as soon as they have come
	Epoch     Epoch
	Entries   Queue[*Entry] // in the order of their places
	gone      uint64        // how many were before them
	From      uint64        // the place after which none is missing
	Head      uint64        // the place up to which they go
	Lists     lists
	Dropped   Dropped
	Attached  int
	Forgotten bool

	Fetching *Fetch // under way
	Far      uint64 // what is after an earlier place does not fit, as was tried at tried
	Tried    time.Time
}

// WholeLocked says that after a place nothing for a reader is missing; nil: nothing.
func (h *Shelf) WholeLocked(place uint64, r *Reader) bool {
	return place >= h.From || !h.Dropped.Since(place, r)
}

// upTo is how many entries, with those that have gone, have a place up to one.
func (h *Shelf) upTo(place uint64) uint64 {
	if place >= h.Head {
		return h.gone + uint64(h.Entries.Len())
	}
	n := sort.Search(h.Entries.Len(), func(i int) bool { return h.Entries.At(i).Cursor.Seq > place })
	return h.gone + uint64(n)
}

// ReadLocked answers a Query after a place from which the shelf is whole for its reader.
func (h *Shelf) ReadLocked(q Query) Page {
	places := runs{}
	if q.Reader == nil {
		places.whole(h.upTo(q.After)+1, h.upTo(h.Head))
	} else {
		h.findLocked(&places, q.Reader, q.After)
	}
	b := BeginPage(q, Cursor{h.Epoch, q.End(h.Head)})
	for last := uint64(0); ; {
		n, ok := places.next()
		if !ok {
			return b.Page
		}
		if n == last {
			continue
		}
		last = n
		if e := h.Entries.At(int(n - h.gone - 1)); e.Cursor.Seq > b.Page.Next.Seq || !b.add(e) {
			return b.Page
		}
	}
}

// findLocked finds the numbers of what is for a reader.
func (h *Shelf) findLocked(to *runs, r *Reader, after uint64) {
	n := h.upTo(after)
	to.add(h.Lists.tenant.Items, n, math.MaxUint64)
	to.add(h.Lists.profiles.numbers(r.Profile), n, math.MaxUint64)
	if r.AllRooms {
		for room := range h.Lists.rooms.all() {
			to.add(room.Items, n, math.MaxUint64)
		}
	}
	for _, stay := range r.Rooms {
		if list := h.Lists.rooms.numbers(stay.Room); len(list) > 0 && !r.AllRooms {
			to.add(list, max(n, h.upTo(stay.From)), h.upTo(stay.Until))
		}
	}
	heap.Init(to)
}
