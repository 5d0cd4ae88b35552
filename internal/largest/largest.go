// Package largest tells who of many has most of something, exactly.
package largest

// Sizes are of holders that have something, such as bytes in memory. Changing one takes
// time by the logarithm of how many there are, and telling the largest takes none. The
// zero value is ready; one goroutine at a time may use it.
type Sizes[K comparable] struct {
	Before func(a, b K) bool // which comes first of two that have as much; nil: either. Static

	heap  []size[K] // none comes before the one at half of its number
	at    map[K]int // in the heap
	old   map[K]int // from which holders move to at; nil: none do
	total int64
}

type size[K comparable] struct {
	holder K
	n      int64
}

// Set is what a holder has from now on. Who has nothing is forgotten.
func (s *Sizes[K]) Set(holder K, n int64) {
	i, known := s.find(holder)
	switch {
	case known:
		s.total += n - s.heap[i].n
		s.heap[i].n = n
	case n <= 0:
		return
	default:
		if s.at == nil {
			s.at = map[K]int{}
		}
		i = len(s.heap)
		s.heap = append(s.heap, size[K]{})
		s.put(i, size[K]{holder, n})
		s.total += n
	}
	if n <= 0 {
		s.removeAt(i)
	} else {
		s.settle(i)
	}
	if s.old != nil {
		s.move()
	}
}

// Add is Set for so much more, or less; it returns what the holder has.
func (s *Sizes[K]) Add(holder K, n int64) int64 {
	n += s.Of(holder)
	s.Set(holder, n)
	return max(0, n)
}

// Of is what a holder has.
func (s *Sizes[K]) Of(holder K) int64 {
	if i, known := s.find(holder); known {
		return s.heap[i].n
	}
	return 0
}

// Most is who has most, one of several that have; ok is false when nobody has any.
func (s *Sizes[K]) Most() (holder K, n int64, ok bool) {
	if len(s.heap) == 0 {
		return holder, 0, false
	}
	return s.heap[0].holder, s.heap[0].n, true
}

// Top are the n who have most, in that order. It takes time by n, and none by how many there are.
func (s *Sizes[K]) Top(n int) (top []K) {
	next := Sizes[int]{Before: func(a, b int) bool { return s.first(s.heap[a], s.heap[b]) }} // places in the heap
	add := func(place int) {
		if place < len(s.heap) {
			next.Set(place, s.heap[place].n)
		}
	}
	add(0)
	for len(top) < n && next.Len() > 0 {
		place, _, _ := next.Most()
		next.Set(place, 0)
		top = append(top, s.heap[place].holder)
		add(2*place + 1)
		add(2*place + 2)
	}
	return top
}

// first says whether a comes before b.
func (s *Sizes[K]) first(a, b size[K]) bool {
	return a.n > b.n || a.n == b.n && s.Before != nil && s.Before(a.holder, b.holder)
}

// Len is how many have something.
func (s *Sizes[K]) Len() int { return len(s.heap) }

// Total is what all have.
func (s *Sizes[K]) Total() int64 { return s.total }

// find is where in the heap a holder is.
func (s *Sizes[K]) find(holder K) (i int, known bool) {
	if i, known = s.at[holder]; !known && s.old != nil {
		i, known = s.old[holder]
	}
	return i, known
}

func (s *Sizes[K]) put(i int, x size[K]) {
	s.heap[i], s.at[x.holder] = x, i
	if s.old != nil {
		delete(s.old, x.holder)
	}
}

// moveTogether is how many holders move at each change, so that no call waits for all of them.
const moveTogether = 16

func (s *Sizes[K]) move() {
	moved := 0
	for holder, i := range s.old {
		if moved == moveTogether {
			return
		}
		s.at[holder] = i
		delete(s.old, holder)
		moved++
	}
	s.old = nil
}

// removeAt takes one out, and puts the last into its place.
func (s *Sizes[K]) removeAt(i int) {
	s.total -= s.heap[i].n
	delete(s.at, s.heap[i].holder)
	delete(s.old, s.heap[i].holder)
	end := len(s.heap) - 1
	last := s.heap[end]
	s.heap[end] = size[K]{} // which may point at something
	s.heap = s.heap[:end]
	if i < end {
		s.put(i, last)
		s.settle(i)
	}
	if 4*end <= cap(s.heap) { // of a crowd that has gone nothing is kept
		s.heap = append(make([]size[K], 0, 2*end), s.heap...)
		if s.old == nil {
			s.at, s.old = map[K]int{}, s.at
		}
	}
}

// settle moves one up or down, to where it belongs.
func (s *Sizes[K]) settle(i int) {
	x := s.heap[i]
	for i > 0 && s.first(x, s.heap[(i-1)/2]) {
		s.put(i, s.heap[(i-1)/2])
		i = (i - 1) / 2
	}
	for child := 2*i + 1; child < len(s.heap); child = 2*i + 1 {
		if child+1 < len(s.heap) && s.first(s.heap[child+1], s.heap[child]) {
			child++
		}
		if !s.first(s.heap[child], x) {
			break
		}
		s.put(i, s.heap[child])
		i = child
	}
	s.put(i, x)
}
