package history

import (
	"container/heap"
	"math"
	"sort"
	"sync"
	"time"

	"realtimehub/internal/due"
)

// shelf keeps one tenant's last entries, and knows by whom they are for. An entry's number is
// how many the shelf had up to it, with those that have gone.
type shelf struct {
	tenant string // static

	mu sync.Mutex
	// Guarded by mu.
	bytes     int64 // all that is counted
	coming    int64 // of those, for entries that are expected
	owed      int64 // of those, for which as much goes once they have come
	epoch     Epoch
	entries   queue[*Entry] // in the order of their places
	gone      uint64        // how many were before them
	from      uint64        // the place after which none is missing
	head      uint64        // the place up to which they go
	lists     lists
	dropped   dropped
	attached  int
	forgotten bool // it is no longer in shelves

	// A Near's.
	fetching *Fetch    // under way
	far      uint64    // what comes after an earlier place does not fit
	tried    time.Time // when that was found

	due due.Item // guarded by shelves.ranking
}

// Due implements due.Owner: when a sweep is to look at it.
func (s *shelf) Due() *due.Item { return &s.due }

// wholeLocked says that after a place nothing for a reader is missing; a nil one reads all.
func (s *shelf) wholeLocked(place uint64, r *Reader) bool {
	return place >= s.from || !s.dropped.since(place, r)
}

// upTo is the number of the last entry with a place up to one.
func (s *shelf) upTo(place uint64) uint64 {
	if place >= s.head {
		return s.gone + uint64(s.entries.len())
	}
	n := sort.Search(s.entries.len(), func(i int) bool { return s.entries.at(i).Cursor.Seq > place })
	return s.gone + uint64(n)
}

// readLocked answers a Query of a reader for whom the shelf is whole after its place.
func (s *shelf) readLocked(q Query) Page {
	places := runs{}
	if q.Reader == nil {
		places.whole(s.upTo(q.After)+1, s.upTo(s.head))
	} else {
		s.findLocked(&places, q.Reader, q.After)
	}
	b := BeginPage(q, Cursor{s.epoch, q.End(s.head)})
	for last := uint64(0); ; {
		n, ok := places.next()
		if !ok {
			return b.Page
		}
		if n == last {
			continue
		}
		last = n
		if e := s.entries.at(int(n - s.gone - 1)); e.Cursor.Seq > b.Page.Next.Seq || !b.add(e) {
			return b.Page
		}
	}
}

// findLocked finds the numbers of the entries after a place that are for a reader.
func (s *shelf) findLocked(to *runs, r *Reader, after uint64) {
	n := s.upTo(after)
	to.add(s.lists.tenant.items, n, math.MaxUint64)
	to.add(s.lists.profiles.numbers(r.Profile), n, math.MaxUint64)
	to.add(s.lists.wideFor(r.Profile, n), n, math.MaxUint64)
	known := max(n, s.upTo(r.RoomsFrom))
	if known > n {
		for room := range s.lists.rooms.all() {
			to.add(room.items, n, known)
		}
	}
	for _, stay := range r.Rooms {
		if list := s.lists.rooms.numbers(stay.Room); len(list) > 0 {
			to.add(list, max(known, s.upTo(stay.From)), s.upTo(stay.Until))
		}
	}
	heap.Init(to)
}
