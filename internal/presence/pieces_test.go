package presence

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
)

// Others get the lock of all tenants' presence after each piece of a long list, and whoever
// stays is in the list, though others come and go meanwhile.
func TestPresenceIsLookedAtInPieces(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		const people = 5*piece + 10
		conns := make([]*delivery.Connection, people)
		for i := range conns {
			conns[i] = w.comes(i)
		}
		met, pieces := map[string]bool{}, 0
		for end := math.MaxInt; end > 0; pieces++ {
			looked := 0
			end = w.some("acme", false, end, func(who *profile) { looked++; met[who.Key().ID] = true })
			is.True(looked <= piece) // under the lock
			for i := pieces; i < people/2; i += 7 {
				w.Left(conns[i], time.Now().Add(-time.Minute)) // its grace is over
				w.comes(people + i)
			}
		}
		is.Equal(pieces, 6)
		for i := people / 2; i < people; i++ {
			is.True(met[fmt.Sprint(i)]) // who stayed
		}
	})
}

// Who asks for those who are online does not pay for those who are not.
func TestPresenceLooksAtNobodyOfflineForThoseWhoAreOnline(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		for i := range 300 {
			if c := w.comes(i); i >= 10 {
				w.Left(c, time.Now())
			}
		}
		w.passes(10 * time.Second)
		looked := func(offline bool) (n int) {
			w.each("acme", offline, func(*profile) { n++ })
			return n
		}
		is.Equal(looked(false), 10)
		is.Equal(looked(true), 290)
		for _, of := range []struct {
			status Status
			n      int
		}{{"", 10}, {Online, 10}, {Away, 0}, {Offline, 290}} {
			list, err := w.All("acme", of.status, func(size int) (func(), error) { return func() {}, nil })
			is.NoErr(err)
			is.Equal(len(list), of.n)
		}
		w.comes(299)
		is.Equal(looked(true), 289) // who is back is in one list
		w.passes(25 * time.Hour)
		is.Equal(looked(true), 0) // who is forgotten is in none
	})
}

// So it is where many change at once: others get the lock after each piece.
func TestPresenceMovesInPieces(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		for i := range 2*piece + 10 {
			w.comes(i)
		}
		w.passes(time.Minute)
		left := func() int { return w.due.Len() }
		soon := time.Now().Add(10 * time.Minute) // all are idle then
		is.Equal(left(), 2*piece+10)
		is.True(w.move(soon))
		is.Equal(left(), piece+10)
		is.True(w.move(soon))
		is.Equal(left(), 10)
		is.True(!w.move(soon))
		is.Equal(left(), 0)
		is.Equal(w.status(1), Away)
	})
}

// Of a profile with many connections only those are looked at that something happens to: no
// other's activity is seen, here one that nobody was told of, until the latest has left.
func TestPresenceLooksAtNoOtherConnection(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		other, one := w.comes(1), w.comes(1)
		who := w.findLocked("acme", one.Profile)
		untold := time.Now().Add(time.Hour)
		other.Active(untold)
		w.Touch(one, time.Now())
		w.passes(time.Second)
		another := w.comes(1)
		w.Left(one, time.Now())
		is.True(who.activeAt() < momentOf(untold))
		w.Left(another, time.Now())
		is.True(who.activeAt() == momentOf(untold)) // the latest has left
		is.Equal(len(who.known().conns), 1)
		w.Left(other, time.Now())
		is.True(who.known().usedAt == never)
	})
}
