package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// oneOther is the peers of a hub with one other, which is there once it was looked at so often.
type oneOther struct {
	Peers
	lost int
}

func (p *oneOther) Others() [][4]byte { return [][4]byte{{1}} }

func (p *oneOther) Known() (others, lost [][4]byte) {
	if p.lost--; p.lost >= 0 {
		return nil, [][4]byte{{1}}
	}
	return [][4]byte{{1}}, nil
}

// A hub that was given up is heard again just as it is looked at: what it is owed is not forgotten.
func TestAKickIsOwedToAHubThatIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ended, carried := make(chan struct{}), 0
		o := &owed{peers: &oneOther{lost: 1}, ended: ended, of: map[[4]byte]map[string]map[kick]int{}}
		o.kick = func([4]byte, kick) error { carried++; return nil }
		o.add([4]byte{1}, kick{tenant: "acme", reason: delivery.CloseKicked})
		time.Sleep(time.Minute)
		synctest.Wait()
		is.Equal(carried, 1)
		close(ended)
	})
}

// A kick that is owed again while the same one is carried out is carried out again, and no
// more than that: it is to close who came in between.
func TestAKickIsOwedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		node, k := [4]byte{1}, kick{tenant: "acme", profile: event.Profile{Type: "user", ID: "1"}, reason: delivery.CloseKicked}
		ended, carried := make(chan struct{}), 0
		o := &owed{peers: &oneOther{}, ended: ended, of: map[[4]byte]map[string]map[kick]int{}}
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
