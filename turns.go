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
