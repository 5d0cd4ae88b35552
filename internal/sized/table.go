package sized

import (
	"iter"
	"sync/atomic"
	"unsafe"
)

// Table is a map that gets smaller again and knows what it takes in memory; one of Go's
// never gives back what it once took. It is made anew a few entries at a time, so that no call
// waits for all of it. The zero value is empty.
type Table[K comparable, V any] struct {
	of   map[K]V
	most int // entries it has had since the map was made

	old   map[K]V // from which entries move; nil: none do
	size  int     // what most was of old
	walks int32   // that are under way: nothing moves meanwhile; atomic, as several may read at once
}

// moveTogether is how many entries move at each change.
const moveTogether = 16

// Put sets the value of k.
func (t *Table[K, V]) Put(k K, v V) {
	if t.of == nil {
		t.of = map[K]V{}
	}
	t.of[k] = v
	delete(t.old, k)
	t.most = max(t.most, t.Len())
	t.move()
}

// Get is the value of k, or the zero value.
func (t *Table[K, V]) Get(k K) V {
	v, _ := t.Find(k)
	return v
}

// Find is the value of k, and whether it is there.
func (t *Table[K, V]) Find(k K) (V, bool) {
	v, ok := t.of[k]
	if !ok && t.old != nil {
		v, ok = t.old[k]
	}
	return v, ok
}

// Len is how many entries there are.
func (t *Table[K, V]) Len() int { return len(t.of) + len(t.old) }

// All is every key with its value, in no order. Put, Delete and Clear may be called meanwhile: a key that
// is put may come, or come again.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		atomic.AddInt32(&t.walks, 1)
		defer atomic.AddInt32(&t.walks, -1)
		for k, v := range t.old {
			if !yield(k, v) {
				return
			}
		}
		for k, v := range t.of {
			if !yield(k, v) {
				return
			}
		}
	}
}

// Values is every value, as All has them.
func (t *Table[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range t.All() {
			if !yield(v) {
				return
			}
		}
	}
}

// Delete removes k. A table that is less than half of what it was is made anew.
func (t *Table[K, V]) Delete(k K) {
	delete(t.of, k)
	delete(t.old, k)
	if t.Len() == 0 {
		t.Clear()
		return
	}
	if t.old == nil && t.Len() < t.most/2 && t.most > 16 {
		t.of, t.old = map[K]V{}, t.of
		t.most, t.size = len(t.old), t.most
	}
	t.move()
}

// move has some entries move.
func (t *Table[K, V]) move() {
	if t.old == nil || atomic.LoadInt32(&t.walks) > 0 {
		return
	}
	n := 0
	for k, v := range t.old {
		if n == moveTogether {
			return
		}
		t.of[k] = v
		delete(t.old, k)
		n++
	}
	t.old, t.size = nil, 0
}

// Clear removes all entries. A walk that is under way may still bring some of them.
func (t *Table[K, V]) Clear() { *t = Table[K, V]{walks: t.walks} }

// Each is how many bytes one more entry takes, without what its key and its value point to.
// A map is between 7/16 and 7/8 full, and has one byte beside each place.
func (t *Table[K, V]) Each() int64 {
	var k K
	var v V
	return 2 * int64(unsafe.Sizeof(k)+unsafe.Sizeof(v)+1)
}

// Bytes is what the table takes, without what its keys and its values point to.
func (t *Table[K, V]) Bytes() int64 {
	if t.Len() == 0 {
		return 0
	}
	return 48 + max(4, int64(t.most+t.size))*t.Each() // the smallest map has 8 places
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
