package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// oneOther is the peers of a hub with one other, which is there.
type oneOther struct{ Peers }

func (oneOther) Others() [][4]byte { return [][4]byte{{1}} }
func (oneOther) Lost() [][4]byte   { return nil }

// A kick that is owed again while the same one is carried out is carried out again, and no
// more than that: it is to close who came in between.
func TestAKickIsOwedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		node, k := [4]byte{1}, kick{tenant: "acme", profile: event.Profile{Type: "user", ID: "1"}, reason: delivery.CloseKicked}
		ended, carried := make(chan struct{}), 0
		o := &owed{peers: oneOther{}, ended: ended, of: map[[4]byte]map[string]map[kick]int{}}
		o.kick = func([4]byte, kick) error {
			if carried++; carried == 1 {
				o.add(node, k)
			}
			return nil
		}
		o.add(node, k)
		time.Sleep(time.Minute)
		synctest.Wait()
		is.Equal(carried, 2)
		close(ended)
	})
}
