package table

import (
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/matryer/is"
)

func TestATableIsAMap(t *testing.T) {
	is := is.New(t)
	random := rand.New(rand.NewPCG(1, 1))
	var table Table[int, int]
	plain := map[int]int{}
	for range 20_000 {
		k, v := random.IntN(1+random.IntN(300)), random.IntN(10)
		if random.IntN(2) == 0 {
			table.Set(k, v)
			plain[k] = v
		} else {
			table.Delete(k)
			delete(plain, k)
		}
		got, ok := table.Find(k)
		want, there := plain[k]
		is.Equal(got, want)
		is.Equal(ok, there)
		is.Equal(table.Get(k), want)
		is.Equal(table.Len(), len(plain))
		is.True(table.Slots() >= table.Len())
		is.True(table.Slots() <= max(few, 2*table.Len()))
	}
	is.Equal(maps.Collect(table.All()), plain)
}

func TestMemoryIsGivenBack(t *testing.T) {
	is := is.New(t)
	var table Table[int, int]
	before := live()
	const all, few = 200_000, 1000
	for i := range all {
		table.Set(i, i)
	}
	full := live() - before
	for i := range all - few {
		table.Delete(i)
	}
	is.True(live()-before < full/20) // a map of Go's has all of it still
	is.Equal(table.Len(), few)
	for i := all - few; i < all; i++ {
		is.Equal(table.Get(i), i)
		table.Delete(i)
	}
	is.Equal(table.Slots(), 0)
	is.True(table.of == nil)
}

func live() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
