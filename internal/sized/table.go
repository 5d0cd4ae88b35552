package sized

import (
	"iter"
	"maps"
	"unsafe"
)

// Table is a map that gets smaller again, and knows what it takes in memory: Go's maps
// never give back what they once took.
type Table[K comparable, V any] struct {
	of   map[K]V
	most int // it has had since it was made
}

func (t *Table[K, V]) Put(k K, v V) {
	if t.of == nil {
		t.of = map[K]V{}
	}
	t.of[k] = v
	t.most = max(t.most, len(t.of))
}

// Get is the value of k, or the zero value.
func (t *Table[K, V]) Get(k K) V { return t.of[k] }

func (t *Table[K, V]) Find(k K) (V, bool) {
	v, ok := t.of[k]
	return v, ok
}

func (t *Table[K, V]) Len() int             { return len(t.of) }
func (t *Table[K, V]) All() iter.Seq2[K, V] { return maps.All(t.of) }
func (t *Table[K, V]) Values() iter.Seq[V]  { return maps.Values(t.of) }

// Delete may be called while all is ranged over.
func (t *Table[K, V]) Delete(k K) {
	delete(t.of, k)
	switch n := len(t.of); {
	case n == 0:
		*t = Table[K, V]{}
	case n < t.most/2 && t.most > 16:
		of := make(map[K]V, n)
		maps.Copy(of, t.of)
		*t = Table[K, V]{of, n}
	}
}

// Each is what one more takes: a table is between 7/16 and 7/8 full, and one byte beside
// each place says what is there.
func (t *Table[K, V]) Each() int64 {
	var k K
	var v V
	return 2 * int64(unsafe.Sizeof(k)+unsafe.Sizeof(v)+1)
}

func (t *Table[K, V]) Bytes() int64 {
	if t.of == nil {
		return 0
	}
	return 48 + max(4, int64(t.most))*t.Each() // one of few has 8 places
}

// Push appends a pointer, or what is as large, to a list whose bytes are counted.
func Push[T any](list *[]T, x T, bytes *int64) {
	was := cap(*list)
	*list = append(*list, x)
	*bytes += 8 * int64(cap(*list)-was)
}

// Pull takes the last one off: a list gets smaller again as well.
func Pull[T any](list *[]T, bytes *int64) {
	was, end := cap(*list), len(*list)-1
	clear((*list)[end:])
	switch *list = (*list)[:end]; {
	case end == 0:
		*list = nil
	case was > 16 && end < was/4:
		*list = append(make([]T, 0, 2*end), *list...)
	}
	*bytes += 8 * int64(cap(*list)-was)
}
