package plan

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// Memory is given back in quiet times only, and the more there is, the less often.
func TestMemoryIsGivenBackInQuietTimes(t *testing.T) {
	for _, c := range []struct {
		name       string
		heap, rate uint64 // bytes, and a second
		freed      int    // within ten minutes
	}{
		{"idle", 1 << 20, 0, 30},
		{"hardly anything happens", 1 << 20, 800 << 10, 30},
		{"busy", 1 << 20, 2 << 20, 0},
		{"as busy, but larger", 100 << 20, 2 << 20, 30},
		{"large", 1 << 30, 1 << 20, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Second)
				defer cancel()
				begun, freed := time.Now(), 0
				giveBack(ctx, func() (uint64, uint64) {
					return c.rate * uint64(time.Since(begun)/time.Second), c.heap
				}, func() { freed++ })
				is.Equal(freed, c.freed)
			})
		})
	}
}
