package room

import (
	"iter"
	"math"
	"slices"

	"realtimehub/internal/event"
)

// Here finds the members of a room who may be connected and belonged to it when an event took
// its place, in no order: all who are, and of those with very many rooms also who is not. size is
// how many members the room has in all.
func (m *Memberships[C]) Here(room event.Room, place uint64) (here []*Person[C], size int) {
	c := m.circles.Get(room)
	if c == nil {
		return nil, 0
	}
	return m.then(c, c.members[:c.here], place), len(c.members)
}

// Then are the members of a room who belonged to it when an event took its place, in no order. Their
// profiles may be read later without the lock.
func (m *Memberships[C]) Then(room event.Room, place uint64) []*Person[C] {
	c := m.circles.Get(room)
	if c == nil {
		return nil
	}
	return slices.Clone(m.then(c, c.members, place))
}

// Snapshot is Then of now.
func (m *Memberships[C]) Snapshot(room event.Room) []*Person[C] { return m.Then(room, math.MaxUint64) }

// then are those of some members of a circle who belonged to it at a place.
func (m *Memberships[C]) then(c *circle[C], members []*Person[C], place uint64) []*Person[C] {
	if c.joined < place {
		return members
	}
	return slices.DeleteFunc(slices.Clone(members), func(p *Person[C]) bool { return !m.belonged(c, p, place) })
}

// belonged says whether a member was one at a place, or may have been.
func (m *Memberships[C]) belonged(c *circle[C], p *Person[C], place uint64) bool {
	key := belonging{p.ref, c.room}
	return m.bonds.Get(pair[C]{c, p}).since < place || max(m.forgot, m.cut.Get(key)) >= place ||
		slices.ContainsFunc(m.past.Get(key), func(s span) bool { return s.from < place && place <= s.until })
}

func (m *Memberships[C]) circlesOf(ref event.Profile) []*circle[C] {
	if p := m.people.Get(ref); p != nil {
		return p.circles
	}
	return nil
}

// AppendRooms appends the rooms that a profile belongs to.
func (m *Memberships[C]) AppendRooms(rooms []event.Room, ref event.Profile) []event.Room {
	for _, c := range m.circlesOf(ref) {
		rooms = append(rooms, c.room)
	}
	return rooms
}

// Visited are rooms whose connected members were told of something.
type Visited[C comparable] map[*circle[C]]bool

// EachBeside calls tell for everybody who may be connected and has a room in common with a
// profile, of rooms that were not visited before; now they are. Who is in several of them
// is told several times.
func (m *Memberships[C]) EachBeside(ref event.Profile, visited Visited[C], tell func(*Person[C])) {
	for _, c := range m.circlesOf(ref) {
		if !visited[c] {
			visited[c] = true
			for _, p := range c.members[:c.here] {
				tell(p)
			}
		}
	}
}

// Differ says who would join and who would leave a room if members were all that it has.
func Differ[C comparable](were []*Person[C], members []event.Profile) (join, leave []event.Profile) {
	here := make(map[event.Profile]bool, len(were)) // whether it has not been met among members
	for _, p := range were {
		here[p.ref] = true
	}
	for _, p := range members {
		if _, is := here[p]; !is {
			join = append(join, p)
		}
		here[p] = false
	}
	for _, p := range were {
		if here[p.ref] {
			leave = append(leave, p.ref)
		}
	}
	return join, leave
}

func (m *Memberships[C]) bond(room event.Room, p event.Profile) (*bond, bool) {
	c := m.circles.Get(room)
	if c == nil {
		return nil, false
	}
	b, ok := m.bonds.Find(pair[C]{c, m.people.Get(p)})
	return b, ok
}

// Has says whether a profile is a member of a room.
func (m *Memberships[C]) Has(room event.Room, p event.Profile) bool {
	_, ok := m.bond(room, p)
	return ok
}

// Len is how many members the room has.
func (m *Memberships[C]) Len(room event.Room) int {
	_, size := m.Here(room, math.MaxUint64)
	return size
}

// Members are the room's, in no order.
func (m *Memberships[C]) Members(room event.Room) iter.Seq[event.Profile] {
	return func(yield func(event.Profile) bool) {
		if c := m.circles.Get(room); c != nil {
			for _, p := range c.members {
				if !yield(p.ref) {
					return
				}
			}
		}
	}
}

// Crowd is who belongs to a room.
type Crowd interface {
	Len() int
	Has(event.Profile) bool
	All() iter.Seq[event.Profile]
}

// Of are the members of a room, until the next change.
func (m *Memberships[C]) Of(room event.Room) Crowd { return members[C]{m, room} }

type members[C comparable] struct {
	of   *Memberships[C]
	room event.Room
}

func (m members[C]) Len() int                     { return m.of.Len(m.room) }
func (m members[C]) Has(p event.Profile) bool     { return m.of.Has(m.room, p) }
func (m members[C]) All() iter.Seq[event.Profile] { return m.of.Members(m.room) }

// Share says whether two profiles have a room in common.
func (m *Memberships[C]) Share(a, b event.Profile) bool {
	one, other := m.people.Get(a), m.people.Get(b)
	if one == nil || other == nil {
		return false
	}
	if len(one.circles) > len(other.circles) {
		one, other = other, one
	}
	return slices.ContainsFunc(one.circles, func(c *circle[C]) bool {
		_, both := m.bonds.Find(pair[C]{c, other})
		return both
	})
}
