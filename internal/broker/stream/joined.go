package stream

import (
	"context"
	"sync"
)

// Joined lets many who ask the same share one answer, to a question that was put after
// they asked.
type Joined[T any] struct {
	ask func() (T, error) // static

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

// NewJoined shares the answers of ask.
func NewJoined[T any](ask func() (T, error)) *Joined[T] { return &Joined[T]{ask: ask} }

// Join asks, or waits for an answer to a question that is put later.
func (j *Joined[T]) Join(ctx context.Context) (answer T, err error) {
	j.mu.Lock()
	if j.next == nil {
		j.next = &question[T]{answered: make(chan struct{})}
	}
	q := j.next
	if !j.running {
		j.running = true
		go j.run()
	}
	j.mu.Unlock()
	select {
	case <-q.answered:
		return q.answer, q.err
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

func (j *Joined[T]) run() {
	for {
		j.mu.Lock()
		q := j.next
		j.next = nil
		j.running = q != nil
		j.mu.Unlock()
		if q == nil {
			return
		}
		q.answer, q.err = j.ask()
		close(q.answered)
	}
}
