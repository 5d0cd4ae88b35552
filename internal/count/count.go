package count

import (
	"slices"
	"sync/atomic"
)

// Words is how often each word of a closed set has occurred. A word that is not in the set
// is not counted: a set that took a user's own words would grow with its users.
type Words[K comparable] map[K]*atomic.Int64

// NewWords counts these words.
func NewWords[K comparable](words ...K) Words[K] {
	w := Words[K]{}
	for _, word := range words {
		w[word] = new(atomic.Int64)
	}
	return w
}

// Add counts a word n times.
func (w Words[K]) Add(word K, n int) {
	if count := w[word]; count != nil && n != 0 {
		count.Add(int64(n))
	}
}

// Now is the count of each word.
func (w Words[K]) Now() map[K]int64 {
	now := make(map[K]int64, len(w))
	for word, count := range w {
		now[word] = count.Load()
	}
	return now
}

// Sizes is how often something had which size.
type Sizes struct {
	bounds  []int // static, rising
	buckets []atomic.Int64
	sum     atomic.Int64
}

// NewSizes counts sizes in buckets with these upper bounds, which rise, and in one more for
// all that is above them.
func NewSizes(bounds ...int) *Sizes {
	return &Sizes{bounds: bounds, buckets: make([]atomic.Int64, len(bounds)+1)}
}

// Add counts one size.
func (s *Sizes) Add(n int) {
	at, _ := slices.BinarySearch(s.bounds, n)
	s.buckets[at].Add(1)
	s.sum.Add(int64(n))
}

// Histogram is how often a value was in each bucket. A bucket goes up to its bound, which is
// part of it; the last bucket is for all values above the bounds.
type Histogram struct {
	Bounds  []float64
	Buckets []int64 // one more than Bounds
	Sum     float64 // of all values
}

// Now is what was counted.
func (s *Sizes) Now() Histogram {
	h := Histogram{Sum: float64(s.sum.Load())}
	for i := range s.buckets {
		h.Buckets = append(h.Buckets, s.buckets[i].Load())
	}
	for _, bound := range s.bounds {
		h.Bounds = append(h.Bounds, float64(bound))
	}
	return h
}
