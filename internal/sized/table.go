package sized

import (
	"iter"
	"maps"
	"unsafe"
)

// Table is a map that gets smaller again and knows what it takes in memory; one of Go's
// never gives back what it once took. The zero value is empty.
type Table[K comparable, V any] struct {
	of   map[K]V
	most int // entries it has had since the map was made
}

// Put sets the value of k.
func (t *Table[K, V]) Put(k K, v V) {
	if t.of == nil {
		t.of = map[K]V{}
	}
	t.of[k] = v
	t.most = max(t.most, len(t.of))
}

// Get is the value of k, or the zero value.
func (t *Table[K, V]) Get(k K) V { return t.of[k] }

// Find is the value of k, and whether it is there.
func (t *Table[K, V]) Find(k K) (V, bool) {
	v, ok := t.of[k]
	return v, ok
}

// Len is how many entries there are.
func (t *Table[K, V]) Len() int { return len(t.of) }

// All is every key with its value, in no order. Delete may be called meanwhile; what it
// removes may still come.
func (t *Table[K, V]) All() iter.Seq2[K, V] { return maps.All(t.of) }

// Values is every value, as All has them.
func (t *Table[K, V]) Values() iter.Seq[V] { return maps.Values(t.of) }

// Delete removes k. A table that is less than half of what it was is made anew.
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

// Each is how many bytes one more entry takes, without what its key and its value point to.
// A map is between 7/16 and 7/8 full, and has one byte beside each place.
func (t *Table[K, V]) Each() int64 {
	var k K
	var v V
	return 2 * int64(unsafe.Sizeof(k)+unsafe.Sizeof(v)+1)
}

// Bytes is what the table takes, without what its keys and its values point to.
func (t *Table[K, V]) Bytes() int64 {
	if t.of == nil {
		return 0
	}
	return 48 + max(4, int64(t.most))*t.Each() // the smallest map has 8 places
}

// Push appends a pointer, or a value as large as one, to a list and adds to bytes what that
// has taken.
func Push[T any](list *[]T, x T, bytes *int64) {
	was := cap(*list)
	*list = append(*list, x)
	*bytes += 8 * int64(cap(*list)-was)
}

// Pull removes a list's last item and takes from bytes what that has given back: a list gets
// smaller again.
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
