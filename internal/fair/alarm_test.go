package fair

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/due"
)

type guest struct {
	item due.Item
	of   string
	n    int
}

func (g *guest) Due() *due.Item { return &g.item }

func keyOf(g *guest) string { return g.of }

// However many are due at once, others get the lock, which is that of all keys, after each
// piece.
func TestWhatIsDueIsTakenInPieces(t *testing.T) {
	is := is.New(t)
	const all = 2*piece + 10
	at := time.Now().Add(time.Hour)
	a := NewAlarm(keyOf, func(*guest) {})
	defer a.Stop()
	for range all {
		a.Set(&guest{of: "acme"}, at)
	}
	come := map[string][]*guest{}
	for i, rest := range []int{piece + 10, 10, 0} {
		is.Equal(a.take(come, at), i < 2)
		is.Equal(a.queue.Len(), rest)
	}
	is.Equal(len(come["acme"]), all)
}

// A key that is busy, with however many, keeps no other's waiting; its own keep their order. What is
// put off meanwhile comes later, and what is removed not at all.
func TestABusyKeyKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var mu sync.Mutex
		var list []string
		came := func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(list)
		}
		busy := make(chan struct{})
		a := NewAlarm(keyOf, func(g *guest) {
			if g.of == "busy" {
				<-busy
			}
			mu.Lock()
			defer mu.Unlock()
			list = append(list, fmt.Sprint(g.of, g.n))
		})
		at := time.Now().Add(time.Minute)
		for i := range 2 * piece {
			a.Set(&guest{of: "busy", n: i}, at.Add(-time.Second))
		}
		well, late, never := &guest{of: "well"}, &guest{of: "late"}, &guest{of: "never"}
		a.Set(well, at)
		a.SetNew(well, at.Add(time.Hour)) // it has a time
		a.Set(late, at)
		a.Set(late, at.Add(time.Hour))
		a.SetNew(never, at)
		a.Set(never, time.Time{})
		time.Sleep(time.Minute)
		is.Equal(came(), []string{"well0"})
		is.True(well.item.At().IsZero()) // it is queued no more
		close(busy)
		is.Equal(len(came()), 1+2*piece)
		is.Equal(came()[1:3], []string{"busy0", "busy1"})
		time.Sleep(time.Hour)
		is.Equal(came()[1+2*piece:], []string{"late0"})
		a.Set(never, time.Now().Add(time.Minute))
		a.Stop()
		a.Set(late, time.Now().Add(time.Minute))
		time.Sleep(time.Hour)
		is.Equal(len(came()), 2+2*piece)
	})
}
