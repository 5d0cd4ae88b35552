package sized

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/matryer/is"
)

// Whatever is put and deleted, a table has what a map has. No call moves more than a few entries,
// and what a table takes is what it needs once a few more calls have come.
func TestATableIsMadeAnewByAndBy(t *testing.T) {
	is := is.New(t)
	var table Table[int, int]
	want := map[int]int{}
	random := rand.New(rand.NewPCG(1, 20))
	change := func(k int, put bool) {
		left := len(table.old)
		if put {
			table.Put(k, k+1)
			want[k] = k + 1
		} else {
			table.Delete(k)
			delete(want, k)
		}
		if left > 0 {
			is.True(left-len(table.old) <= moveTogether+1)
		}
		is.Equal(table.Len(), len(want))
		v, there := table.Find(k)
		is.Equal(there, put)
		is.Equal(v, want[k])
	}
	for _, much := range []int{5, 0, 3000, 1600, 1400, 1600, 20, 40_000, 15_000, 16_000, 0} {
		keys := 4000
		if max(much, len(want)) > keys {
			keys = 50_000
		}
		for len(want) != much {
			change(random.IntN(keys), len(want) < much)
		}
		is.Equal(maps.Collect(table.All()), want)
		n := 0
		for range table.Values() {
			n++
		}
		is.Equal(n, len(want))
		for k := range want {
			is.Equal(table.Get(k), want[k])
		}
	}
	is.Equal(table.Bytes(), int64(0))
}

// What a table took goes with its entries.
func TestATableGivesMemoryBack(t *testing.T) {
	is := is.New(t)
	var table Table[int, int]
	for i := range 100_000 {
		table.Put(i, i)
	}
	for left := 100_000; left > 0; left-- {
		is.True(float64(table.Bytes()) <= 48+max(17, 3.2*float64(left)+64)*float64(table.Each())) // while it is made anew there are two
		is.True(table.Bytes() >= 48+int64(max(left, table.size))*table.Each())
		table.Delete(left - 1)
	}
}

// While a table is walked through, each entry comes once, but for those that go before, and all
// may go.
func TestATableIsWalkedThrough(t *testing.T) {
	for _, left := range []int{0, 1, 3000} {
		t.Run(fmt.Sprint(left), func(t *testing.T) {
			is := is.New(t)
			var table Table[int, int]
			for i := range 10_000 {
				table.Put(i, i)
			}
			for i := 4990; i < 10_000; i++ { // it is being made anew
				table.Delete(i)
			}
			is.True(table.old != nil)
			for k := range table.old { // which is not there twice then
				table.Put(k, k)
				break
			}
			is.Equal(table.Len(), 4990)
			came := map[int]int{}
			for k := range table.All() {
				came[k]++
				is.Equal(came[k], 1)
				if k >= left {
					table.Delete(k)
				}
			}
			is.Equal(len(came), 4990)
			is.Equal(table.Len(), left)
			is.Equal(table.walks, int32(0))
			table.Put(-1, 1)
			for range table.All() {
				break
			}
			is.Equal(table.walks, int32(0))
		})
	}
}

// A table may be cleared while it is walked through, and filled again.
func TestATableIsClearedMeanwhile(t *testing.T) {
	is := is.New(t)
	var table Table[int, int]
	for i := range 100 {
		table.Put(i, i)
	}
	came := 0
	for range table.All() {
		if came++; came == 10 {
			table.Clear()
			table.Put(-1, 1)
		}
	}
	is.True(came <= 100)
	is.Equal(table.Len(), 1)
	is.Equal(table.walks, int32(0))
	table.Clear()
	is.Equal(table.Bytes(), int64(0))
}

// Several may walk through a table at once, as who only reads may.
func TestATableIsWalkedBySeveralAtOnce(t *testing.T) {
	var table Table[int, int]
	for i := range 100 {
		table.Put(i, i)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				for range table.All() {
					break
				}
			}
		})
	}
	all.Wait()
	is.New(t).Equal(table.walks, int32(0)) // so entries move again
}
