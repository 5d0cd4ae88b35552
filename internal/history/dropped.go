package history

import (
	"hash/maphash"

	"realtimehub/internal/event"
)

// dropped is what a shelf remembers of what it no longer has: by whom it was for, the
// last place. Of many, what was dropped first is forgotten; so it knows of all that
// follows a place, which is its floor.
type dropped struct {
	floor      uint64
	tenant     uint64 // the last for everybody
	rooms      uint64 // the last for any room
	young, old droppedPart
}

// droppedPart is of a time: which is forgotten together. Names are known by their hashes:
// so what one takes does not depend on its length. Where two have the same, what one has
// lost the other seems to have lost as well.
type droppedPart struct {
	profiles map[uint64]uint64
	rooms    map[uint64]uint64
	last     uint64 // of all
}

// droppedSeed is this process's own: nobody can choose names that have the same hash.
var droppedSeed = maphash.MakeSeed()

const (
	droppedBytes = 40     // that one takes in memory, as measured
	mostDropped  = 16_384 // in one part
)

func (p *droppedPart) len() int { return len(p.profiles) + len(p.rooms) }

// note adds an event's place; most is how many are remembered in one part. It returns
// how many more, or fewer, are remembered now.
func (d *dropped) note(e *event.Event, place uint64, most int) int {
	before := d.len()
	y := &d.young
	y.last = max(y.last, place)
	if e.Target.Kind == event.KindTenant {
		d.tenant = max(d.tenant, place)
	}
	if room, ok := e.Target.Room(); ok {
		d.rooms = max(d.rooms, place)
		noteIn(&y.rooms, room, place)
	}
	for _, p := range e.Target.Profiles {
		noteIn(&y.profiles, p, place)
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

// lastFor is the last place that was dropped for a profile.
func (d *dropped) lastFor(p event.Profile) uint64 {
	hash := maphash.Comparable(droppedSeed, p)
	return max(d.young.profiles[hash], d.old.profiles[hash])
}

// lastIn is the last place that was dropped for a room.
func (d *dropped) lastIn(r event.Room) uint64 {
	hash := maphash.Comparable(droppedSeed, r)
	return max(d.young.rooms[hash], d.old.rooms[hash])
}

func (d *dropped) len() int { return d.young.len() + d.old.len() }

// since says whether anything that a reader wants may have been dropped after a place:
// it may, where that is not known.
func (d *dropped) since(place uint64, r *Reader) bool {
	if r == nil || place < d.floor || d.tenant > place || d.lastFor(r.Profile) > place {
		return true
	}
	if r.AllRooms || place < r.RoomsFrom {
		return d.rooms > place
	}
	for _, stay := range r.Rooms {
		last := d.lastIn(stay.Room)
		if last <= place {
			continue
		}
		// Of a room the last is known, so that a stay that ended before may have lost
		// something as well.
		if place < r.StaysFrom || stay.From < last && place < stay.Until {
			return true
		}
	}
	return false
}
