// Package shrink is maps that give memory back: a map of Go's keeps what it has grown to,
// however little is left in it.
package shrink

import (
	"iter"
	"maps"
)

// Map is a map. The zero value is ready; one goroutine at a time may change it.
type Map[K comparable, V any] struct {
	of    map[K]V
	slots int
}

// few are what the smallest map has room for.
const few = 8

// Get is what a key has; the zero value where it has nothing.
func (t *Map[K, V]) Get(k K) V { return t.of[k] }

// Find is Get, and says whether there is anything.
func (t *Map[K, V]) Find(k K) (v V, ok bool) {
	v, ok = t.of[k]
	return v, ok
}

// Len is how many there are.
func (t *Map[K, V]) Len() int { return len(t.of) }

// Slots is how many it has memory for, less than Go's reserve: at most twice Len, or 8.
func (t *Map[K, V]) Slots() int { return t.slots }

// All are the keys with what they have, in no order.
func (t *Map[K, V]) All() iter.Seq2[K, V] { return maps.All(t.of) }

// Set is what a key has from now on.
func (t *Map[K, V]) Set(k K, v V) {
	if t.of == nil {
		t.of = map[K]V{}
	}
	t.of[k] = v
	t.slots = max(t.slots, len(t.of))
}

// Delete forgets a key. Once half have gone, the rest is moved to less memory.
func (t *Map[K, V]) Delete(k K) {
	delete(t.of, k)
	switch n := len(t.of); {
	case n == 0:
		*t = Map[K, V]{}
	case 2*n <= t.slots && t.slots > few:
		of := make(map[K]V, n)
		maps.Copy(of, t.of)
		*t = Map[K, V]{of, n}
	}
}
