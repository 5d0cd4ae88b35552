package overload

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// Those who are turned away together come back one after the other, so many a second,
// however many they are; later it is as it was.
func TestReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var x tally
		now := time.Now()
		is.Equal(x.after(now, 10), time.Duration(0)) // one alone does not wait
		for n := range 600 {
			is.Equal(x.after(now, 10), time.Duration(n+1)*100*time.Millisecond)
		}
		for range 1000 {
			is.Equal(x.after(now, 10), longestAway)
		}
		is.Equal(x.after(now.Add(30*time.Second), 10), 30*time.Second+100*time.Millisecond)
		is.Equal(x.after(now.Add(2*time.Hour), 10), time.Duration(0))
	})
}

// However many come back when they are told to, only so many a second do.
func TestAStormOfReturnsCalms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const clients = 3_000
		x := NewReturns()
		ctx, stop := context.WithCancel(t.Context())
		var came atomic.Int64
		var all sync.WaitGroup
		for n := range clients {
			all.Go(func() {
				for ctx.Err() == nil {
					came.Add(1)
					time.Sleep(Jittered(2*time.Second) + Jittered(x.After(fmt.Sprint(n%300), true)))
				}
			})
		}
		time.Sleep(3 * time.Minute)
		before := came.Load()
		time.Sleep(3 * time.Minute)
		is.True(came.Load()-before <= 180*backOfAll*5/4) // and not 1,000 a second
		stop()
		all.Wait()
	})
}
