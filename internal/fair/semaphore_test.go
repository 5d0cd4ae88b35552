package fair

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/matryer/is"

	"realtimehub/internal/quota"
)

// Turns go by keys: who comes last from elsewhere is the next but one, however
// long another's line is. Who leaves is no longer waited for.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		turns := NewSemaphore(quota.New[string](1, 0))
		is.NoErr(turns.Acquire(t.Context(), "first"))
		var order []string
		wait := func(ctx context.Context, who, name string) {
			go func() {
				if turns.Acquire(ctx, who) == nil {
					order = append(order, name) // one at a time
				}
			}()
			synctest.Wait()
		}
		gone, leave := context.WithCancel(t.Context())
		wait(gone, "quiet", "quiet, gone")
		for i := range 4 {
			wait(t.Context(), "greedy", fmt.Sprint("greedy ", i))
		}
		wait(gone, "greedy", "greedy, gone")
		wait(t.Context(), "other", "other")
		leave()
		synctest.Wait()
		for _, who := range []string{"first", "greedy", "other", "greedy", "greedy"} {
			turns.Release(who)
			synctest.Wait()
		}
		is.Equal(order, []string{"greedy 0", "other", "greedy 1", "greedy 2", "greedy 3"})
		turns.Release("greedy")
		is.Equal(turns.places.Total(), int64(0))
		is.Equal(len(turns.lines)+turns.order.Len(), 0)
	})
}

// Where a key may have a part only, whoever waits of another is let in first, and of those
// who have their part nobody is woken in vain.
func TestTurnsHaveAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		turns := NewSemaphore(quota.New[string](8, 1))
		in := map[string]int{}
		for _, who := range []string{"greedy", "other", "third"} {
			for range 100 {
				go func() {
					if turns.Acquire(t.Context(), who) == nil {
						in[who]++ // one at a time
					}
				}()
				synctest.Wait()
			}
		}
		is.Equal(in, map[string]int{"greedy": 4, "other": 2, "third": 1})
		turns.Release("greedy")
		turns.Release("greedy")
		synctest.Wait()
		is.Equal(in, map[string]int{"greedy": 4, "other": 2, "third": 2}) // who has least
		tries := turns.places.Refused()
		for range 90 {
			turns.Release("other")
			synctest.Wait()
		}
		is.True(turns.places.Refused()-tries <= 90*6) // few for each, however many wait
		is.True(in["other"] >= 90)
	})
}

// What is to be done of one key is done in its order, as one thing if it had to wait, and keeps
// nobody waiting.
func TestASeriesIsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var done []string
		busy := make(chan struct{})
		s := NewSeries(func(key, what string) {
			done = append(done, key+" "+what)
			if key == "busy" {
				<-busy
			}
		}, func(waiting, more string) string { return waiting + more })
		s.Do("busy", "0")
		synctest.Wait()
		for i := range 100 {
			s.Do("busy", fmt.Sprint(i%10))
		}
		s.Do("other", "1")
		synctest.Wait()
		is.Equal(done, []string{"busy 0", "other 1"})
		busy <- struct{}{}
		synctest.Wait()
		is.Equal(done[2:], []string{"busy " + strings.Repeat("0123456789", 10)})
		s.Do("busy", "later")
		close(busy)
		synctest.Wait()
		is.Equal(done[3:], []string{"busy later"})
		is.Equal(len(s.of), 0)
	})
}
