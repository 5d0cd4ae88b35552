package history

import (
	"container/heap"
	"math"
	"sort"
	"sync"
	"time"
)

// shelf is one tenant's.
type shelf struct {
	tenant string // static

	mu sync.Mutex
	// Guarded by mu.
	bytes     int64 // all that is counted
	coming    int64 // of those, for entries that are not there yet
	owed      int64 // of those: as much goes of the shelf as soon as they have come
	epoch     Epoch
	entries   queue[*Entry] // in the order of their places
	gone      uint64        // how many were before them
	from      uint64        // the place after which none is missing
	head      uint64        // the place up to which they go
	lists     lists
	dropped   dropped
	attached  int
	forgotten bool

	fetching *Fetch // under way
	far      uint64 // what is after an earlier place does not fit, as was tried at tried
	tried    time.Time
}

// wholeLocked says that after a place nothing for a reader is missing; nil: nothing.
func (h *shelf) wholeLocked(place uint64, r *Reader) bool {
	return place >= h.from || !h.dropped.since(place, r)
}

// upTo is how many entries, with those that have gone, have a place up to one.
func (h *shelf) upTo(place uint64) uint64 {
	if place >= h.head {
		return h.gone + uint64(h.entries.len())
	}
	n := sort.Search(h.entries.len(), func(i int) bool { return h.entries.at(i).Cursor.Seq > place })
	return h.gone + uint64(n)
}

// readLocked answers a Query after a place from which the shelf is whole for its reader.
func (h *shelf) readLocked(q Query) Page {
	places := runs{}
	if q.Reader == nil {
		places.whole(h.upTo(q.After)+1, h.upTo(h.head))
	} else {
		h.findLocked(&places, q.Reader, q.After)
	}
	b := BeginPage(q, Cursor{h.epoch, q.End(h.head)})
	for last := uint64(0); ; {
		n, ok := places.next()
		if !ok {
			return b.Page
		}
		if n == last {
			continue
		}
		last = n
		if e := h.entries.at(int(n - h.gone - 1)); e.Cursor.Seq > b.Page.Next.Seq || !b.add(e) {
			return b.Page
		}
	}
}

// findLocked finds the numbers of what is for a reader.
func (h *shelf) findLocked(to *runs, r *Reader, after uint64) {
	n := h.upTo(after)
	to.add(h.lists.tenant.items, n, math.MaxUint64)
	to.add(h.lists.profiles.numbers(r.Profile), n, math.MaxUint64)
	if r.AllRooms {
		for room := range h.lists.rooms.all() {
			to.add(room.items, n, math.MaxUint64)
		}
	}
	for _, stay := range r.Rooms {
		if list := h.lists.rooms.numbers(stay.Room); len(list) > 0 && !r.AllRooms {
			to.add(list, max(n, h.upTo(stay.From)), h.upTo(stay.Until))
		}
	}
	heap.Init(to)
}
