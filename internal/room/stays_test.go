package room

import (
	"fmt"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/testkit"
	"slices"
	"testing"

	"github.com/matryer/is"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

var alice, bob = event.Profile{Type: "user", ID: "alice"}, event.Profile{Type: "user", ID: "bob"}

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
	rooms.Prune(20)
	is.Equal(rooms.Bytes(), (&Memberships[*int]{}).Bytes()) // and nothing is left
}
