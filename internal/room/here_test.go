package room

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
)

// Who is in very many rooms moves in none of them by coming and going, and is found in each.
func TestWhoIsInManyRoomsIsMovedInNone(t *testing.T) {
	is := is.New(t)
	var m Memberships[*int]
	for i := range 2 * manyRooms {
		m.Add(numbered(i), bob, 1)
		m.Add(numbered(i), alice, 1)
	}
	before := map[event.Room][]*Person[*int]{}
	for _, c := range m.circles.All() {
		before[c.room] = slices.Clone(c.members)
	}
	moved := func() (n int) {
		for _, c := range m.circles.All() {
			if !slices.Equal(before[c.room], c.members) {
				n++
			}
		}
		return n
	}
	one, other := new(int), new(int)
	m.Connect(alice, one)
	is.Equal(moved(), 0)
	is.Equal(reached(&m, numbered(7)), []*int{one})
	m.Connect(bob, other)
	m.Disconnect(alice, one)
	is.Equal(moved(), 0)
	is.Equal(reached(&m, numbered(7)), []*int{other})
	for i := range 2*manyRooms - 9 {
		m.Remove(numbered(i), alice, 2)
	}
	here, size := m.Here(numbered(2*manyRooms-1), math.MaxUint64)
	is.Equal([]int{len(here), size}, []int{1, 2}) // who is in few, and not connected, is not looked at
}

// Whoever comes and goes, joins and leaves, few rooms or many: a room's members who are connected
// are those who are reached.
func TestWhoIsReached(t *testing.T) {
	is := is.New(t)
	random := rand.New(rand.NewPCG(1, 20))
	var m Memberships[*int]
	people := make([]event.Profile, 5)
	for i := range people {
		people[i] = event.Profile{Type: "user", ID: fmt.Sprint(i)}
	}
	turned := 0
	for range 1000 {
		ref := people[random.IntN(len(people))]
		before := m.Person(ref) != nil && m.Person(ref).remains
		switch first := random.IntN(manyRooms); random.IntN(6) {
		case 0:
			m.Connect(ref, new(int))
		case 1, 2:
			if p := m.Person(ref); p != nil && len(p.conns) > 0 {
				m.Disconnect(ref, p.conns[random.IntN(len(p.conns))])
			}
		case 3:
			for i := range manyRooms * 2 / 3 {
				m.Add(numbered(first+i), ref, 1)
			}
		case 4:
			for i := range manyRooms/2 + random.IntN(manyRooms) {
				m.Remove(numbered(first+i), ref, 2)
			}
		case 5:
			m.Add(numbered(first), ref, 1)
		}
		if p := m.Person(ref); p != nil && p.remains != before {
			turned++
		}
		in := numbered(random.IntN(2 * manyRooms))
		var want []*int
		for p := range m.Members(in) {
			want = append(want, m.Person(p).conns...)
		}
		is.Equal(len(reached(&m, in)), len(want))
		for _, c := range want {
			is.True(slices.Contains(reached(&m, in), c))
		}
		if c := m.circles.Get(in); c != nil {
			for i, p := range c.members {
				is.Equal(p.isHere(), i < c.here)
				is.Equal(int(m.bonds.Get(pair[*int]{c, p}).inCircle), i)
			}
		}
	}
	is.True(turned > 20) // few became many, or many few
}

func numbered(i int) event.Room { return event.Room{Kind: event.KindGroup, ID: fmt.Sprint(i)} }

// reached are the connections that an event for a room reaches now.
func reached(m *Memberships[*int], in event.Room) (conns []*int) {
	here, _ := m.Here(in, math.MaxUint64)
	for _, p := range here {
		conns = append(conns, p.conns...)
	}
	return conns
}
