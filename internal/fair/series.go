package fair

import "sync"

// togetherAtOnce is how many things are done together at a time.
const togetherAtOnce = 32

// ForEach does n things that wait for others, some at a time.
func ForEach(n int, do func(i int)) {
	if n == 1 {
		do(0)
		return
	}
	var all sync.WaitGroup
	turns := make(chan struct{}, togetherAtOnce)
	for i := range n {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			do(i)
		})
	}
	all.Wait()
}

// Series does things of each key one after the other, and has nobody wait for them. The zero
// value is ready.
type Series[K comparable] struct {
	mu sync.Mutex
	of map[K][]func() // guarded by mu: what follows where one is under way
}

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
