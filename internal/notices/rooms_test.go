package notices

import (
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/quota"
)

// village is one room of one tenant, and who is there.
type village struct {
	members map[event.Profile]bool
	present map[event.Profile]bool
	told    []string
	asked   int // most people whose rooms were asked for at once
}

func (v *village) RoomsOf(_ string, profiles []event.Profile) (rooms []event.Room) {
	v.asked = max(v.asked, len(profiles))
	for _, p := range profiles {
		if v.members[p] {
			rooms = append(rooms, event.Room{Kind: event.KindGroup, ID: "hall"})
		}
	}
	return rooms
}

func (v *village) AnyMember(_ string, _ event.Room, is func(event.Profile) bool) bool {
	for p := range v.members {
		if is(p) {
			return true
		}
	}
	return false
}

// Somebody leaves a room while it is not told yet that nobody is there: it is vacated all the same.
func TestWhoLeavesARoomJustThen(t *testing.T) {
	is := is.New(t)
	one, hall, state := user(1), event.Room{Kind: event.KindGroup, ID: "hall"}, quota.New[string](0, 1)
	v := &village{members: map[event.Profile]bool{one: true}, present: map[event.Profile]bool{}}
	r := NewRooms(RoomsConfig{
		Members: v, Present: func(_ string, p event.Profile) bool { return v.present[p] }, State: state,
		Tell: func(_ string, room event.Room, occupied bool, _ time.Time) {
			v.told = append(v.told, fmt.Sprint(room.ID, " ", occupied))
		},
	})
	v.present[one] = true
	r.People("acme", []event.Profile{one}, false)
	r.Look(time.Now())
	is.Equal(v.told, []string{"hall true"})
	is.True(state.Of("acme") > 0)

	v.present[one] = false // as a tick finds,
	delete(v.members, one) // and before it has asked for the rooms
	r.Moved("acme", hall, one)
	r.People("acme", []event.Profile{one}, false)
	r.Look(time.Now())
	is.Equal(v.told, []string{"hall true", "hall false"})
	is.Equal(state.Of("acme"), int64(0))

	r.Moved("acme", hall, user(2)) // who is not there
	is.Equal(len(r.changed), 0)
}

// Where very many come or go their rooms are asked for by pieces.
func TestTheRoomsOfMany(t *testing.T) {
	is := is.New(t)
	v := &village{members: map[event.Profile]bool{}, present: map[event.Profile]bool{}}
	r := NewRooms(RoomsConfig{Members: v})
	people := make([]event.Profile, 10*peopleAtOnce+1)
	for i := range people {
		people[i] = user(i)
	}
	v.members[people[10*peopleAtOnce]] = true
	r.People("acme", people, true)
	is.Equal(v.asked, peopleAtOnce)
	is.Equal(r.changed, map[place]bool{{"acme", event.Room{Kind: event.KindGroup, ID: "hall"}}: false})
}
