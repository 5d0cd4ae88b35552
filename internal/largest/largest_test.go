package largest

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matryer/is"
)

func TestTheLargestIsExact(t *testing.T) {
	for seed := range uint64(20) {
		is := is.New(t)
		random := rand.New(rand.NewPCG(seed, 0))
		sizes := Sizes[int]{Before: func(a, b int) bool { return a < b }}
		plain := map[int]int64{}
		for range 500 {
			holder, n := random.IntN(40), random.Int64N(50)-10 // of which many are equal, and some are gone
			if random.IntN(2) == 0 {
				plain[holder] = max(0, n)
				sizes.Set(holder, n)
			} else {
				plain[holder] = max(0, plain[holder]+n)
				is.Equal(sizes.Add(holder, n), plain[holder])
			}
			var most, total int64
			held := 0
			for holder, n := range plain {
				if got := sizes.Of(holder); got != n {
					t.Fatalf("%d has %d, not %d", holder, got, n)
				}
				most, total = max(most, n), total+n
				if n > 0 {
					held++
				}
			}
			who, n, ok := sizes.Most()
			is.Equal(n, most)
			is.Equal(ok, most > 0)
			is.Equal(plain[who], n)
			in := slices.SortedFunc(maps.Keys(plain), func(a, b int) int { return cmp.Or(cmp.Compare(plain[b], plain[a]), cmp.Compare(a, b)) })
			is.True(slices.Equal(sizes.Top(7), in[:min(7, held)]))
			is.Equal(sizes.Total(), total)
			is.Equal(sizes.Len(), held)
		}
	}
}

// What a change costs is counted in places of the heap that have another holder then.
func TestAChangeCostsALogarithm(t *testing.T) {
	is := is.New(t)
	const holders = 1 << 13
	var sizes Sizes[int]
	for i := range holders {
		sizes.Set(i, int64(i+1))
	}
	is.Equal(sizes.Len(), holders)
	changed := func(holder int, n int64) (places int) {
		before := slices.Clone(sizes.heap)
		sizes.Set(holder, n)
		for i, x := range sizes.heap {
			if x.holder != before[i].holder {
				places++
			}
		}
		return places
	}
	for i := range 20 {
		up := changed(i, holders+1+int64(i)) // from the bottom to the top
		who, _, _ := sizes.Most()
		is.Equal(who, i)
		is.True(up > 1 && up <= 14) // one for each level
		down := changed(i, 1)
		is.True(down > 1 && down <= 14)
	}
}

func TestWhoHasNothingIsForgotten(t *testing.T) {
	is := is.New(t)
	var sizes Sizes[string]
	sizes.Set("nobody", 0)
	is.Equal(sizes.Add("nobody", -5), int64(0))
	_, _, ok := sizes.Most()
	is.True(!ok)
	for range 1000 {
		sizes.Set("a", 1)
		sizes.Set("b", 2)
		sizes.Add("a", -1)
		sizes.Add("b", -3)
	}
	is.Equal(sizes.Total(), int64(0))
	is.Equal(len(sizes.at)+cap(sizes.heap), 0) // nothing is kept of them
}

// When very many go, what is known of the others moves a few at a time: nobody waits for all of it.
func TestACrowdThatGoesMovesNobodyAtOnce(t *testing.T) {
	is := is.New(t)
	const crowd, few = 1 << 13, 16 + 14 // those that move, and one for each level of the heap
	var sizes Sizes[int]
	for i := range crowd {
		sizes.Set(i, int64(i+1))
	}
	made := 0
	for i := range crowd {
		before := len(sizes.at)
		sizes.Set(i, 0)
		is.True(len(sizes.at)-before <= few)
		if len(sizes.at) < before-1 { // it was made anew
			made++
			is.True(len(sizes.at) <= few)
		}
		is.Equal(sizes.Of(i), int64(0))
		if next := i + 1 + i%7; next < crowd {
			is.Equal(sizes.Of(next), int64(next+1))
			who, _, _ := sizes.Most()
			is.Equal(who, crowd-1)
		}
	}
	is.True(made >= 3) // a quarter as large each time, about
}

func BenchmarkAdd(b *testing.B) {
	var sizes Sizes[int]
	for i := range 10_000 {
		sizes.Set(i, int64(i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		sizes.Add(i*7919%10_000, 900)
	}
}
