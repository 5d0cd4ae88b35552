package room

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/testkit"

	"github.com/matryer/is"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

var alice, bob = event.Profile{Type: "user", ID: "alice"}, event.Profile{Type: "user", ID: "bob"}

func unbroken() bool { return true }

// The stays of who is in many rooms are found once, until they change.
func TestManyStaysAreFoundOnce(t *testing.T) {
	is := is.New(t)
	var r Memberships[*int]
	me := event.Profile{Type: "user", ID: "me"}
	in := func(i int) event.Room { return event.Room{Kind: event.KindGroup, ID: fmt.Sprint(i)} }
	for i := range manyRooms {
		r.Add(in(i), me, 1)
	}
	stays := func() *history.Stay { return &r.Reader(me).Rooms[0] }
	bytes := r.Bytes()
	first := stays()
	is.Equal(stays(), first)
	is.True(r.Bytes() >= bytes+manyRooms*stayBytes)
	r.Add(event.Room{Kind: event.KindGroup, ID: "another"}, me, 2)
	is.True(stays() != first)
	is.Equal(r.Reader(me).Rooms, r.stays(me))
	r.Remove(in(0), me, 3)
	is.Equal(r.Reader(me).Rooms, r.stays(me))
	for _, s := range r.stays(me) {
		r.Remove(s.Room, me, 0)
	}
	r.ForgetPast()
	is.Equal(r.Bytes(), int64(0))
}

// Who belonged to a room at a place is known, but for what is forgotten.
func TestWhoWasThere(t *testing.T) {
	is := is.New(t)
	var r Memberships[*int]
	carol := event.Profile{Type: "user", ID: "carol"}
	in, other := event.Room{Kind: event.KindGroup, ID: "g"}, event.Room{Kind: event.KindGroup, ID: "h"}
	was := func(p event.Profile, place uint64) [2]bool {
		is, known := r.Was(in, p, place)
		return [2]bool{is, known}
	}
	r.Add(in, alice, 1)
	r.Add(other, carol, 1)
	r.Remove(in, alice, 3)
	r.Remove(other, carol, 3)
	r.Add(in, bob, 3)
	is.Equal(was(alice, 1), [2]bool{false, true})
	is.Equal(was(alice, 3), [2]bool{true, true})
	is.Equal(was(alice, 4), [2]bool{false, true})
	is.Equal(was(bob, 3), [2]bool{false, true})
	is.Equal(was(bob, 4), [2]bool{true, true})
	is.Equal(r.Former(in, 3, unbroken), []event.Profile{alice})
	is.Equal(len(r.Former(in, 4, unbroken)), 0)
	r.Add(in, alice, 5)
	is.Equal(r.Former(in, 3, unbroken), []event.Profile{alice}) // who may be back as others look on
	is.Equal(was(alice, 4), [2]bool{false, true})
	r.Remove(in, alice, 0)
	r.ForgetPast()
	is.Equal(was(alice, 3), [2]bool{false, false})
	is.Equal(was(alice, 4), [2]bool{false, true})
}

// Places of a history that is over say nothing of the next one: who belongs somewhere does
// so from its beginning on.
func TestRoomsInAnotherHistory(t *testing.T) {
	is := is.New(t)
	var rooms Memberships[*int]
	r := event.Room{Kind: event.KindGroup, ID: "g"}
	rooms.Add(r, alice, 100)
	rooms.Add(r, bob, 100)
	rooms.Remove(r, bob, 200)
	rooms.Unsure(150)
	rooms.Restart(history.Epoch{Tag: 1})
	is.Equal(rooms.stays(alice), []history.Stay{{Room: r, From: 0, Until: 1<<64 - 1}})
	is.Equal(*rooms.Reader(alice), history.Reader{Profile: alice, Rooms: []history.Stay{{Room: r, From: 0, Until: 1<<64 - 1}}})
	is.Equal(rooms.Forgotten(alice), uint64(0))
	is.True(!rooms.Remembers())
	rooms.Clear()
	is.True(rooms.Empty())
	is.Equal(slices.Collect(rooms.Members(r)), nil)
	is.Equal(rooms.Bytes(), (&Memberships[*int]{}).Bytes()) // nothing is left
}

// So it is with places at which somebody left, though the stays that ended there are known no more,
// and with places that were pruned.
func TestPlacesInAnotherHistory(t *testing.T) {
	is := is.New(t)
	var rooms Memberships[*int]
	r := event.Room{Kind: event.KindGroup, ID: "g"}
	rooms.Add(r, alice, 100)
	rooms.Remove(r, alice, 200)
	rooms.Set(r, Membership{Profile: alice, Member: true, Stays: []history.Stay{{Room: r, From: 100, Until: math.MaxUint64}}}) // as another hub knows it
	is.Equal(rooms.Left(alice), uint64(200))
	rooms.Restart(history.Epoch{Tag: 1})
	is.Equal(rooms.Left(alice), uint64(0))

	rooms.Remove(r, alice, 200)
	rooms.Prune(200, unbroken)
	rooms.Restart(history.Epoch{Tag: 2})
	rooms.Add(r, bob, 1)
	rooms.Remove(r, bob, 2)
	is.True(rooms.ForgetPast())
	is.Equal(rooms.Forgotten(bob), uint64(2))
}

// Past so many ended stays all are forgotten, and it is known up to where.
func TestStaysThatAreTooMany(t *testing.T) {
	is := is.New(t)
	var rooms Memberships[*int]
	r := event.Room{Kind: event.KindGroup, ID: "g"}
	rooms.Add(r, alice, 1)
	rooms.Add(r, bob, 1)
	rooms.Remove(r, alice, 10)
	is.Equal(rooms.ended, 1)
	is.Equal(rooms.Forgotten(alice), uint64(0))
	rooms.ended = maxPast
	rooms.Remove(r, bob, 20)
	is.Equal(rooms.ended, 1) // the last is there again
	is.Equal(rooms.Forgotten(alice), uint64(10))
	is.Equal(rooms.Belonging(r, alice).Stays, nil)
	is.Equal(rooms.Belonging(r, bob).Stays, []history.Stay{{Room: r, From: 1, Until: 20}})
	rooms.Prune(20, unbroken)
	is.Equal(rooms.Bytes(), (&Memberships[*int]{}).Bytes()) // and nothing is left
}

// endings is memberships in which so many have left a room at places from 1 on.
func endings(n int) (m Memberships[*int], in event.Room) {
	in = event.Room{Kind: event.KindGroup, ID: "g"}
	for i := range n {
		p := event.Profile{Type: "user", ID: fmt.Sprint(i)}
		m.Add(in, p, 0)
		m.Remove(in, p, uint64(i+1))
	}
	return m, in
}

// walks is how many walks through a table are under way.
func walks(table any) int64 { return reflect.ValueOf(table).FieldByName("walks").Int() }

// As long as nothing that has ended is out of reach nothing is looked at. Else others get the
// lock after each piece, and may change everything.
func TestPruningLooksInPieces(t *testing.T) {
	is := is.New(t)
	const n = 3 * prunePiece
	m, in := endings(n)
	looked := 0 // in pieces
	count := func() bool { looked++; return true }
	m.Prune(10, count)
	is.Equal(looked, 2*n/prunePiece) // each stay, and each who has left
	is.Equal(m.ended, n-10)
	m.Prune(10, count)
	is.Equal(looked, 2*n/prunePiece) // the oldest is at 11
	m.Prune(11, count)
	is.Equal(m.ended, n-11)

	turn := 0
	m.Prune(n/2, func() bool {
		late := event.Profile{Type: "user", ID: fmt.Sprint("late", turn)}
		m.Add(in, late, 0)
		m.Remove(in, late, uint64(n+turn))
		if turn++; turn == 4 {
			m.ForgetPast()
		}
		return true
	})
	is.True(turn >= 5)
	is.Equal(walks(m.cut)+walks(m.left)+walks(m.past), int64(0)) // all are over
	is.Equal(m.Forgotten(bob), uint64(n+3))                      // of what was forgotten, the last
	is.Equal(m.ended, turn-4)                                    // what came after that
	m.Prune(uint64(2*n), unbroken)
	is.True(m.Empty())
	is.Equal(m.Bytes(), int64(0)) // nothing is kept

	m, _ = endings(n)
	m.Prune(n, func() bool { return false })
	is.Equal(m.ended, n) // whose tenant has gone
}

// The oldest that is kept is known, whatever it is: a stay before another, or a place of who
// has left whose stays are not known any more.
func TestPruningFindsTheOldestThatIsLeft(t *testing.T) {
	is := is.New(t)
	in := event.Room{Kind: event.KindGroup, ID: "g"}
	var m Memberships[*int]
	is.True(!m.Remembers())
	m.Prune(1, unbroken)
	m.Set(in, Membership{Profile: alice, Stays: []history.Stay{{Room: in, From: 1, Until: 5}, {Room: in, From: 6, Until: 9}}})
	m.Prune(5, unbroken)
	is.Equal(len(m.Belonging(in, alice).Stays), 1)
	m.Set(in, Membership{Profile: alice})
	is.Equal(m.Left(alice), uint64(9))
	m.Set(in, Membership{Profile: bob, Stays: []history.Stay{{Room: in, Until: 5}, {Room: in, From: 5, Until: 7}, {Room: in, From: 7, Until: 8}}})
	m.Prune(5, unbroken)
	m.Prune(7, unbroken)
	is.Equal(len(m.Belonging(in, bob).Stays), 1)
	m.Prune(8, unbroken)
	is.True(!m.Remembers())
	m.Prune(9, unbroken)
	is.Equal(m.Left(alice), uint64(0))
	m.Set(in, Membership{Profile: bob, Forgot: 10})
	m.Set(in, Membership{Profile: alice, Forgot: 20})
	m.Set(in, Membership{Profile: alice, Forgot: 11}) // but was seen to leave at 20
	m.Prune(10, unbroken)
	m.Prune(11, unbroken)
	is.True(!m.Remembers())
	m.Prune(20, unbroken)
	is.Equal(m.Bytes(), int64(0))
}

func BenchmarkForgetPast(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, _ := endings(n)
			for b.Loop() {
				again := m
				again.ForgetPast()
			}
		})
	}
}
