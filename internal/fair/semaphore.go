package fair

import (
	"container/list"
	"context"
	"sync"

	"realtimehub/internal/quota"
)

// Semaphore lets in as many as it has places. Of those who wait it lets in one of each key
// after the other. Whoever is woken has a place: what it costs to give one back does not
// depend on how many wait.
type Semaphore[K comparable] struct {
	places *quota.Pool[K] // static; taken and given back under mu

	mu sync.Mutex
	// Guarded by mu.
	lines map[K]*list.Element // of order
	order list.List           // of *line[K]; the front is let in next
}

// line is those of one key who wait, first come first. Each is a channel that is closed when
// it is let in.
type line[K comparable] struct {
	key     K
	waiting list.List
}

// NewSemaphore lets in as many as there are places, and of each key no more than its part
// of them.
func NewSemaphore[K comparable](places *quota.Pool[K]) *Semaphore[K] {
	return &Semaphore[K]{places: places, lines: map[K]*list.Element{}}
}

// Acquire waits for a place. If ctx ends first the error is its cause, and no place is held.
func (s *Semaphore[K]) Acquire(ctx context.Context, key K) error {
	s.mu.Lock()
	if s.places.Take(key, 1) { // nobody of this key waits: they would have been let in
		s.mu.Unlock()
		return nil
	}
	at := s.lines[key]
	if at == nil {
		at = s.order.PushBack(&line[K]{key: key})
		s.lines[key] = at
	}
	waiting := &at.Value.(*line[K]).waiting
	turn := make(chan struct{})
	place := waiting.PushBack(turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-turn: // it was let in meanwhile
		s.releaseLocked(key)
	default:
		waiting.Remove(place)
		s.tidyLocked(at)
	}
	return context.Cause(ctx)
}

// Pool is what the places are taken from. It is for looking only.
func (s *Semaphore[K]) Pool() *quota.Pool[K] { return s.places }

// Waiting is how many of a key wait for a place.
func (s *Semaphore[K]) Waiting(key K) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.lines[key]; at != nil {
		return at.Value.(*line[K]).waiting.Len()
	}
	return 0
}

// Release gives back a place that Acquire took for the same key.
func (s *Semaphore[K]) Release(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(key)
}

func (s *Semaphore[K]) releaseLocked(key K) {
	s.places.Give(key, 1)
	for at := s.order.Front(); at != nil; {
		first := at.Value.(*line[K])
		switch {
		case s.places.Take(first.key, 1):
			close(first.waiting.Remove(first.waiting.Front()).(chan struct{}))
			s.order.MoveToBack(at)
			s.tidyLocked(at)
			at = s.order.Front()
		case s.places.Of(first.key) == 0:
			return // this key holds nothing and is refused: so is every other
		default:
			at = at.Next()
		}
	}
}

// tidyLocked drops a line in which nobody waits.
func (s *Semaphore[K]) tidyLocked(at *list.Element) {
	if l := at.Value.(*line[K]); l.waiting.Len() == 0 {
		s.order.Remove(at)
		delete(s.lines, l.key)
	}
}
