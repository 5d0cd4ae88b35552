package presence

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/delivery"
)

// Others get the lock of all tenants' presence after each piece of a long list, and whoever
// stays is in the list, though others come and go meanwhile, and though they are active.
func TestPresenceIsLookedAtInPieces(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		const people = 5*piece + 10
		idle := w.comes("idle")
		w.passes(6 * time.Minute)
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
			if end <= piece {
				w.Touch(idle, time.Now()) // who is among the rest, and away no more
			}
		}
		is.Equal(pieces, 6)
		for i := people / 2; i < people; i++ {
			is.True(met[fmt.Sprint(i)]) // who stayed
		}
		is.True(met["idle"])
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

// Of a profile with many connections only those are looked at that something happens to, and the
// one that was active last then: no other's activity is seen, here one that nobody was told of.
func TestPresenceLooksAtNoOtherConnection(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		other, one, another := w.comes(1), w.comes(1), w.comes(1)
		who := w.findLocked("acme", one.Profile)
		untold := time.Now().Add(time.Hour)
		other.Active(untold)
		w.Touch(one, time.Now())
		w.passes(time.Second)
		w.Left(one, time.Now())
		is.True(who.activeAt() < momentOf(untold))
		w.Left(another, time.Now())
		is.True(who.activeAt() == momentOf(untold)) // the other ones have left
	})
}

// Whatever order people's connections come, are used and leave in, the latest activity of those
// that are there is known, and one that has left is not among them.
func TestPresenceKnowsTheLatestActivity(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		random := rand.New(rand.NewPCG(20, 20))
		var open, gone []*delivery.Connection
		for range 2000 {
			time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
			soon := time.Now().Add(-time.Duration(random.IntN(5)) * time.Millisecond) // it waited for the lock
			switch i := random.IntN(30); {
			case i >= len(open):
				c := delivery.NewRemote(uuid.New(), "acme", user(1), soon, soon, nil)
				w.Connected(c)
				open = append(open, c)
			case random.IntN(2) == 0:
				w.Touch(open[i], soon)
			default:
				w.Left(open[i], time.Now())
				gone = append(gone, open[i])
				open = slices.Delete(open, i, i+1)
				w.Touch(gone[random.IntN(len(gone))], soon)
			}
			latest := never
			for _, c := range open {
				latest = max(latest, momentOf(c.LastActivity()))
			}
			known := w.findLocked("acme", user(1)).known()
			is.Equal(known.conns.usedAt(), latest)
		}
		for _, c := range gone {
			is.True(c.Later == nil && c.Earlier == nil) // nor keep memory
		}
	})
}
