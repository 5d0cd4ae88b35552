package testkit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// What comes late is asked for less often than once in 50 ms, and seen a tenth of a second
// after it has come at most; what comes at once is seen at once.
func TestEventuallyAsksEverMoreSeldom(t *testing.T) {
	for after, most := range map[time.Duration]int{time.Millisecond: 2, 300 * time.Millisecond: 50, 40 * time.Second: 800} {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			begun, asked := time.Now(), 0
			Eventually(t, func() bool {
				asked++
				return time.Since(begun) >= after
			})
			is.True(asked <= most)
			is.True(time.Since(begun) <= after+max(after/10, 5*time.Millisecond) && time.Since(begun) <= after+100*time.Millisecond)
		})
	}
}

// Comes gives up after a minute.
func TestComesGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		begun := time.Now()
		is.True(!Comes(func() bool { return false }))
		is.True(time.Since(begun) > time.Minute && time.Since(begun) < 61*time.Second)
	})
}
