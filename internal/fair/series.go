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

// Series does the things of each key one after the other, in a goroutine that lasts as long
// as there are any. The zero value is ready.
type Series[K comparable] struct {
	mu sync.Mutex
	of map[K][]func() // guarded by mu; a key is there while something of it is under way
}

// Do has something done after all that Do was called with before for the same key. It does
// not wait for it.
func (s *Series[K]) Do(key K, what func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next, busy := s.of[key]; busy {
		s.of[key] = append(next, what)
		return
	}
	if s.of == nil {
		s.of = map[K][]func(){}
	}
	s.of[key] = nil
	go s.run(key, what)
}

func (s *Series[K]) run(key K, what func()) {
	for more := true; more; {
		what()
		s.mu.Lock()
		next := s.of[key]
		if more = len(next) > 0; more {
			what, s.of[key] = next[0], next[1:]
		} else {
			delete(s.of, key)
		}
		s.mu.Unlock()
	}
}
