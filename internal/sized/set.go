package sized

import (
	"hash/maphash"
	"iter"
)

// Keyed is something that knows its own key, which never changes.
type Keyed[K comparable] interface {
	comparable
	Key() K
}

// Set is a [Table] of things that know their own keys. It keeps 8 bytes of each key's hash and
// not the key again, which matters where keys are large and things are many. The zero value is
// empty.
type Set[K comparable, V Keyed[K]] struct {
	first Table[uint64, V] // by hash
	more  Table[K, V]      // whose hash another had when they were put: next to none

	hash func(K) uint64 // by which tests have hashes collide; nil: one that nobody foresees
}

var seed = maphash.MakeSeed()

func (s *Set[K, V]) hashOf(k K) uint64 {
	if s.hash != nil {
		return s.hash(k)
	}
	return maphash.Comparable(seed, k)
}

// Put adds v, whose key nothing else in the set has.
func (s *Set[K, V]) Put(v V) {
	k := v.Key()
	hash := s.hashOf(k)
	if _, taken := s.first.Find(hash); taken {
		s.more.Put(k, v)
	} else {
		s.first.Put(hash, v)
	}
}

// Get is what has the key k, or the zero value.
func (s *Set[K, V]) Get(k K) V {
	if v, there := s.first.Find(s.hashOf(k)); there && v.Key() == k {
		return v
	}
	return s.more.Get(k)
}

// Delete removes v.
func (s *Set[K, V]) Delete(v V) {
	k := v.Key()
	if hash := s.hashOf(k); s.first.Get(hash) == v {
		s.first.Delete(hash)
	} else {
		s.more.Delete(k)
	}
}

// Len is how many there are.
func (s *Set[K, V]) Len() int { return s.first.Len() + s.more.Len() }

// All is everything, as [Table.All] has it.
func (s *Set[K, V]) All() iter.Seq[V] {
	return func(yield func(V) bool) {
		for v := range s.first.Values() {
			if !yield(v) {
				return
			}
		}
		for v := range s.more.Values() {
			if !yield(v) {
				return
			}
		}
	}
}
