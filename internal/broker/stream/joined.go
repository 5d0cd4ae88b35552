package stream

import (
	"context"
	"sync"
)

// Joined lets many who ask the same share one answer, to a question that was put after
// they asked.
type Joined[T any] struct {
	Ask func() (T, error) // static

	mu sync.Mutex
	// Guarded by mu.
	next    *question[T]
	running bool
}

type question[T any] struct {
	answered chan struct{}
	answer   T
	err      error
}

func (h *Joined[T]) Join(ctx context.Context) (answer T, err error) {
	h.mu.Lock()
	if h.next == nil {
		h.next = &question[T]{answered: make(chan struct{})}
	}
	q := h.next
	if !h.running {
		h.running = true
		go h.run()
	}
	h.mu.Unlock()
	select {
	case <-q.answered:
		return q.answer, q.err
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

func (h *Joined[T]) run() {
	for {
		h.mu.Lock()
		q := h.next
		h.next = nil
		h.running = q != nil
		h.mu.Unlock()
		if q == nil {
			return
		}
		q.answer, q.err = h.Ask()
		close(q.answered)
	}
}
