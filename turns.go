package main

import (
	"container/list"
	"context"
	"sync"

	"realtimehub/internal/quota"
)

// turns let in as many as there are places, and of those who wait one of each key after
// the other. Whoever is woken has its turn: what the end of one costs does not depend on
// how many wait.
type turns[K comparable] struct {
	places *quota.Pool[K] // static; taken and given back under mu

	mu sync.Mutex
	// Guarded by mu.
	lines map[K]*list.Element // of order
	order list.List           // of *line[K]: whose turn is next first
}

// line is those of one key who wait, as channels that are closed when their turn comes,
// the first first.
type line[K comparable] struct {
	key     K
	waiting list.List
}

// newTurns lets in as many as there are places, and of each key no more than its part.
func newTurns[K comparable](places *quota.Pool[K]) *turns[K] {
	return &turns[K]{places: places, lines: map[K]*list.Element{}}
}

// take waits for a turn, or ctx's end, which is its error.
func (t *turns[K]) take(ctx context.Context, key K) error {
	t.mu.Lock()
	if t.places.Take(key, 1) { // nobody of this key waits: they would have been let in
		t.mu.Unlock()
		return nil
	}
	at := t.lines[key]
	if at == nil {
		at = t.order.PushBack(&line[K]{key: key})
		t.lines[key] = at
	}
	waiting := &at.Value.(*line[K]).waiting
	turn := make(chan struct{})
	place := waiting.PushBack(turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-turn: // it has come meanwhile
		t.giveLocked(key)
	default:
		waiting.Remove(place)
		t.tidyLocked(at)
	}
	return context.Cause(ctx)
}

// pool is what the places are taken from, to be looked at.
func (t *turns[K]) pool() *quota.Pool[K] { return t.places }

// waiting is how many of a key wait for their turn.
func (t *turns[K]) waiting(key K) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at := t.lines[key]; at != nil {
		return at.Value.(*line[K]).waiting.Len()
	}
	return 0
}

// give ends a turn.
func (t *turns[K]) give(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveLocked(key)
}

func (t *turns[K]) giveLocked(key K) {
	t.places.Give(key, 1)
	for at := t.order.Front(); at != nil; {
		first := at.Value.(*line[K])
		switch {
		case t.places.Take(first.key, 1):
			close(first.waiting.Remove(first.waiting.Front()).(chan struct{}))
			t.order.MoveToBack(at)
			t.tidyLocked(at)
			at = t.order.Front()
		case t.places.Of(first.key) == 0:
			return // nobody has less
		default:
			at = at.Next()
		}
	}
}

// tidyLocked drops a line in which nobody waits.
func (t *turns[K]) tidyLocked(at *list.Element) {
	if l := at.Value.(*line[K]); l.waiting.Len() == 0 {
		t.order.Remove(at)
		delete(t.lines, l.key)
	}
}

// togetherAtOnce is how many things are done together at a time.
const togetherAtOnce = 32

// together does n things that wait for others, some at a time.
func together(n int, do func(i int)) {
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

// series does things of each key one after the other, and has nobody wait for them. The zero
// value is ready.
type series[K comparable] struct {
	mu sync.Mutex
	of map[K][]func() // guarded by mu: what follows where one is under way
}

func (s *series[K]) do(key K, what func()) {
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

func (s *series[K]) run(key K, what func()) {
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
