package fair

import "sync"

// atOnce is how many calls of ForEach's function are under way at a time.
const atOnce = 32

// ForEach calls do for 0 to n-1, some at a time, and returns when all calls have. It is for
// calls that wait, such as for another process.
func ForEach(n int, do func(i int)) {
	if n == 1 {
		do(0)
		return
	}
	var all sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			do(i)
		})
	}
	all.Wait()
}

// Series does what there is to do of each key, one after the other, in a goroutine that lasts as
// long as there is any. What comes while something of its key is done waits as one thing, and not
// as many.
type Series[K comparable, V any] struct {
	// Static.
	do   func(key K, what V)
	join func(waiting, more V) V

	mu sync.Mutex
	of map[K]*V // what waits; guarded by mu; a key is there while something of it is done, nil if nothing waits
}

// NewSeries makes one that calls do. join makes one thing of what waits and what has come after it.
func NewSeries[K comparable, V any](do func(key K, what V), join func(waiting, more V) V) *Series[K, V] {
	return &Series[K, V]{do: do, join: join, of: map[K]*V{}}
}

// Do has something done after all that Do was called with before for the same key. It does not
// wait for it. Calls for one key come one after the other.
func (s *Series[K, V]) Do(key K, what V) {
	for waiting := s.put(key, what); waiting != nil; waiting = s.put(key, what) {
		what = s.join(*waiting, what)
	}
}

// put begins to do something, or has it wait; where something waits it takes that out instead.
func (s *Series[K, V]) put(key K, what V) (waiting *V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, busy := s.of[key]
	switch {
	case !busy:
		s.of[key] = nil
		go s.run(key, what)
	case waiting == nil:
		s.of[key] = &what
	default:
		s.of[key] = nil
	}
	return waiting
}

func (s *Series[K, V]) run(key K, what V) {
	for next := &what; next != nil; next = s.next(key) {
		s.do(key, *next)
	}
}

// next takes out what waits; nil: nothing.
func (s *Series[K, V]) next(key K) *V {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.of[key]
	if next == nil {
		delete(s.of, key)
	} else {
		s.of[key] = nil
	}
	return next
}
