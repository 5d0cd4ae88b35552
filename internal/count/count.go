package count

import (
	"slices"
	"sync/atomic"
)

// Words is how often each word of a closed set has occurred. What is counted by a
// user's own word would grow with them: a word that is not of the set is not counted.
type Words[K comparable] map[K]*atomic.Int64

func NewWords[K comparable](words ...K) Words[K] {
	c := Words[K]{}
	for _, word := range words {
		c[word] = new(atomic.Int64)
	}
	return c
}

func (c Words[K]) Add(word K, n int) {
	if count := c[word]; count != nil && n != 0 {
		count.Add(int64(n))
	}
}

// Now is what was counted, of each word.
func (c Words[K]) Now() map[K]int64 {
	now := make(map[K]int64, len(c))
	for word, count := range c {
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

func NewSizes(bounds ...int) *Sizes {
	return &Sizes{bounds: bounds, buckets: make([]atomic.Int64, len(bounds)+1)}
}

func (s *Sizes) Add(n int) {
	at, _ := slices.BinarySearch(s.bounds, n)
	s.buckets[at].Add(1)
	s.sum.Add(int64(n))
}

// Histogram is how often a value was up to each bound, and in the last bucket above
// all of them.
type Histogram struct {
	Bounds  []float64
	Buckets []int64
	Sum     float64
}

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
