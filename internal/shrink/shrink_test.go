package shrink

import (
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/matryer/is"
)

func TestItIsAMap(t *testing.T) {
	is := is.New(t)
	random := rand.New(rand.NewPCG(1, 1))
	var m Map[int, int]
	plain := map[int]int{}
	for range 20_000 {
		k, v := random.IntN(1+random.IntN(300)), random.IntN(10)
		if random.IntN(2) == 0 {
			m.Set(k, v)
			plain[k] = v
		} else {
			m.Delete(k)
			delete(plain, k)
		}
		got, ok := m.Find(k)
		want, there := plain[k]
		is.Equal(got, want)
		is.Equal(ok, there)
		is.Equal(m.Get(k), want)
		is.Equal(m.Len(), len(plain))
		is.True(m.Slots() >= m.Len())
		is.True(m.Slots() <= max(few, 2*m.Len()))
	}
	is.Equal(maps.Collect(m.All()), plain)
}

func TestMemoryIsGivenBack(t *testing.T) {
	is := is.New(t)
	var m Map[int, int]
	before := live()
	const all, few = 200_000, 1000
	for i := range all {
		m.Set(i, i)
	}
	full := live() - before
	for i := range all - few {
		m.Delete(i)
	}
	is.True(live()-before < full/20) // a map of Go's has all of it still
	is.Equal(m.Len(), few)
	for i := all - few; i < all; i++ {
		is.Equal(m.Get(i), i)
		m.Delete(i)
	}
	is.Equal(m.Slots(), 0)
	is.True(m.of == nil)
}

func live() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
