package fair

import (
	"container/list"
	"context"
	"sync"

	"realtimehub/internal/quota"
)

// Semaphore let in as many as there are places, and of those who wait one of each key after
// the other. Whoever is woken has its turn: what the end of one costs does not depend on
// how many wait.
type Semaphore[K comparable] struct {
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

// NewSemaphore lets in as many as there are places, and of each key no more than its part.
func NewSemaphore[K comparable](places *quota.Pool[K]) *Semaphore[K] {
	return &Semaphore[K]{places: places, lines: map[K]*list.Element{}}
}

// Acquire waits for a turn, or ctx's end, which is its error.
func (t *Semaphore[K]) Acquire(ctx context.Context, key K) error {
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

// Pool is what the places are taken from, to be looked at.
func (t *Semaphore[K]) Pool() *quota.Pool[K] { return t.places }

// Waiting is how many of a key wait for their turn.
func (t *Semaphore[K]) Waiting(key K) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at := t.lines[key]; at != nil {
		return at.Value.(*line[K]).waiting.Len()
	}
	return 0
}

// Release ends a turn.
func (t *Semaphore[K]) Release(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveLocked(key)
}

func (t *Semaphore[K]) giveLocked(key K) {
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
func (t *Semaphore[K]) tidyLocked(at *list.Element) {
	if l := at.Value.(*line[K]); l.waiting.Len() == 0 {
		t.order.Remove(at)
		delete(t.lines, l.key)
	}
}
