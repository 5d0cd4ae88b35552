package pace

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var n atomic.Int64
		told := make(chan int64, 10)
		p := Reporter{Say: func() { told <- n.Swap(0) }}
		tell := func(times int) {
			for range times {
				n.Add(1)
				p.Tell()
			}
		}
		said := func(want ...int64) {
			t.Helper()
			synctest.Wait()
			is.Equal(len(told), len(want))
			for _, n := range want {
				is.Equal(<-told, n)
			}
		}
		tell(100)
		said(1)
		time.Sleep(1500 * time.Millisecond)
		said(99)
		tell(1)
		said()
		time.Sleep(10 * time.Second)
		said(1)
		tell(1)
		said(1) // at once, after a rest
		time.Sleep(10 * time.Second)
		said()
	})
}
