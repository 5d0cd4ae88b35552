package plan

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// Memory is given back in quiet times only: soon after the heap has grown, and else the
// less often the larger it is.
func TestMemoryIsGivenBackInQuietTimes(t *testing.T) {
	const minute = 60
	for _, c := range []struct {
		name             string
		heap, live, rate uint64 // bytes, what is left of them once given back, bytes allocated a second
		freed            int    // within ten minutes
		first            int    // seconds after the start; 0: never
	}{
		{"idle", 1 << 20, 1 << 20, 0, 30, 20},
		{"hardly anything happens", 1 << 20, 1 << 20, 800 << 10, 30, 20},
		{"busy", 1 << 20, 1 << 20, 2 << 20, 0, 0},
		{"as busy, but larger", 1 << 30, 1 << 30, 2 << 20, 6, 100},
		{"most is of no use", 1 << 30, 300 << 20, 0, 17, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				ctx, cancel := context.WithTimeout(t.Context(), 10*minute*time.Second+time.Second)
				defer cancel()
				begun, heap, freed, first := time.Now(), c.heap, 0, 0
				giveBack(ctx, func() (uint64, uint64) {
					return c.rate * uint64(time.Since(begun)/time.Second), heap
				}, func() {
					if freed++; freed == 1 {
						first = int(time.Since(begun) / time.Second)
					}
					heap = c.live
				})
				is.Equal(freed, c.freed)
				is.Equal(first, c.first)
			})
		})
	}
}

// After a storm, which is no quiet time, what it left is given back within 30 s.
func TestMemoryIsGivenBackAfterAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const storm, over = 12, 30 // seconds
		ctx, cancel := context.WithTimeout(t.Context(), (storm+over)*time.Second)
		defer cancel()
		begun, heap := time.Now(), uint64(5<<20)
		giveBack(ctx, func() (uint64, uint64) {
			seconds := min(uint64(time.Since(begun)/time.Second), storm)
			if seconds > 0 && heap < 100<<20 {
				heap = 600 << 20
			}
			return seconds * 100 << 20, heap
		}, func() { is.True(time.Since(begun) > storm*time.Second); heap = 200 << 20 })
		is.Equal(heap, uint64(200<<20))
	})
}
