package room

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"realtimehub/internal/event"
	"realtimehub/internal/testkit"

	"github.com/matryer/is"
)

func TestRoomsAreCounted(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	for name, shape := range map[string]struct{ rooms, people, bonds, name int }{
		"one large room":          {1, 40_000, 40_000, 24},
		"many rooms of two":       {20_000, 40_000, 40_000, 24},
		"one person in many":      {40_000, 1, 40_000, 24},
		"everybody everywhere":    {200, 200, 40_000, 24},
		"long names":              {2_000, 2_000, 10_000, 230},
		"just after a table grew": {1, 14_400, 14_400, 24},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			random := rand.New(rand.NewPCG(1, 2))
			before := testkit.LiveHeap()
			rooms := make([]event.Room, shape.rooms)
			for i := range rooms {
				rooms[i] = event.Room{Kind: event.KindConversation, ID: testkit.Text(random, shape.name)}
			}
			people := make([]event.Profile, shape.people)
			for i := range people {
				people[i], _ = event.ParseProfile("user:" + testkit.Text(random, shape.name))
			}
			names := testkit.LiveHeap() - before
			var r Memberships[*int]
			for i := range shape.bonds {
				room := rooms[i%len(rooms)]
				if shape.rooms > 1 && shape.people > 1 {
					room = rooms[i/max(1, shape.bonds/shape.rooms)%len(rooms)]
				}
				r.Add(room, people[i%len(people)], 1)
			}
			is.True(r.Count() > shape.bonds*9/10)
			list := int64(len(rooms)+len(people)) * 32 // that the test itself keeps
			testkit.Weighs(t, before+list, r.Bytes())
			for _, c := range []int{2, 5, 20} { // leaving and returning
				for range shape.bonds / c {
					room, p := rooms[random.IntN(len(rooms))], people[random.IntN(len(people))]
					if !r.Remove(room, p, 2) {
						r.Add(room, p, 2)
					}
				}
				testkit.Weighs(t, before+list, r.Bytes())
			}
			for i, p := range people { // most of them for good
				for _, s := range r.stays(p) {
					if i%10 > 0 {
						r.Remove(s.Room, p, 1)
					}
				}
			}
			testkit.Weighs(t, before+list+names, r.Bytes()+names)
			r.Prune(9, unbroken)
			testkit.Weighs(t, before+list+names, r.Bytes()+names)
			for _, p := range people {
				for _, s := range r.stays(p) {
					r.Remove(s.Room, p, 0)
				}
			}
			is.Equal(r.Bytes(), int64(0)) // nothing is kept
			is.True(r.Empty())
			runtime.KeepAlive(rooms)
			runtime.KeepAlive(people)
		})
	}
}
