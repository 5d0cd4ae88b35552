package history

import (
	"hash/maphash"

	"realtimehub/internal/event"
)

// dropped is what a shelf remembers of the entries that it no longer has: the last place for
// each profile and room. It forgets the oldest when there are too many, and knows of all that
// came after a place, its floor.
type dropped struct {
	floor      uint64
	tenant     uint64 // the last for everybody
	rooms      uint64 // the last for any room
	young, old droppedPart
}

// droppedPart is what was dropped in one span of time, and is forgotten together. It knows
// names by their hashes, so that a long one takes no more memory. Of two names with the same
// hash each seems to have lost what the other has.
type droppedPart struct {
	profiles map[uint64]uint64
	rooms    map[uint64]uint64
	wide     []droppedWide
	mentions int    // in wide
	last     uint64 // of all
}

// droppedWide is an entry that named many.
type droppedWide struct {
	place  uint64
	byHash []mention
}

// droppedSeed is this process's own, so that nobody can choose names with the same hash.
var droppedSeed = maphash.MakeSeed()

const (
	droppedBytes = 40     // of memory for one name, as measured
	mostDropped  = 16_384 // names in one part
)

func (d *droppedPart) len() int { return len(d.profiles) + len(d.rooms) + d.mentions }

// note adds an entry's place, where a part remembers so many names at most. It returns how
// many more, or fewer, are remembered now.
func (d *dropped) note(of *Entry, most int) int {
	before, e, place := d.len(), of.Event, of.Cursor.Seq
	y := &d.young
	y.last = max(y.last, place)
	if e.Target.Kind == event.KindTenant {
		d.tenant = max(d.tenant, place)
	}
	if room, ok := e.Target.Room(); ok {
		d.rooms = max(d.rooms, place)
		noteIn(&y.rooms, room, place)
	}
	if of.people != nil {
		y.wide = append(y.wide, droppedWide{place, of.people.byHash})
		y.mentions += len(of.people.byHash)
	} else {
		for _, p := range e.Target.Profiles {
			noteIn(&y.profiles, p, place)
		}
	}
	if y.len() >= most {
		d.floor = max(d.floor, d.old.last)
		d.old, d.young = d.young, droppedPart{}
	}
	return d.len() - before
}

func noteIn[K comparable](m *map[uint64]uint64, k K, place uint64) {
	if *m == nil {
		*m = map[uint64]uint64{}
	}
	hash := maphash.Comparable(droppedSeed, k)
	(*m)[hash] = max((*m)[hash], place)
}

// lastFor is the last place dropped that was for a profile.
func (d *dropped) lastFor(p event.Profile) uint64 {
	hash := maphash.Comparable(droppedSeed, p)
	return max(d.young.lastFor(hash), d.old.lastFor(hash))
}

func (d *droppedPart) lastFor(hash uint64) (place uint64) {
	place = d.profiles[hash]
	for _, w := range d.wide {
		if _, is := find(w.byHash, hash); is {
			place = max(place, w.place)
		}
	}
	return place
}

// lastIn is the last place dropped that was for a room.
func (d *dropped) lastIn(r event.Room) uint64 {
	hash := maphash.Comparable(droppedSeed, r)
	return max(d.young.rooms[hash], d.old.rooms[hash])
}

// len is how many names are remembered.
func (d *dropped) len() int { return d.young.len() + d.old.len() }

// since says whether anything for a reader may have been dropped after a place. It says yes
// where that is no longer remembered.
func (d *dropped) since(place uint64, r *Reader) bool {
	if r == nil || place < d.floor || d.tenant > place || d.lastFor(r.Profile) > place {
		return true
	}
	if place < r.RoomsFrom {
		return d.rooms > place
	}
	for _, stay := range r.Rooms {
		last := d.lastIn(stay.Room)
		if last <= place {
			continue
		}
		// Only the last place dropped in a room is known. An earlier stay may have lost
		// something too, so its end is not compared with that place.
		if place < r.StaysFrom || stay.From < last && place < stay.Until {
			return true
		}
	}
	return false
}
