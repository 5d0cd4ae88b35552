package delivery

import (
	"context"
	"errors"
	"sync"

	"realtimehub/internal/history"
)

// gates admit one caller at a time to work on a tenant that may wait for the broker or other
// hubs, during which no lock may be held.
type gates struct {
	mu    sync.Mutex
	taken map[string]*gate // guarded by mu
}

type gate struct {
	over chan struct{} // closed when the gate is free
	err  error         // before that: why a tenant cannot be begun
}

// take takes a tenant's gate, if nobody has: end follows.
func (g *gates) take(name string) (one *gate, taken bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if one := g.taken[name]; one != nil {
		return one, false
	}
	if g.taken == nil {
		g.taken = map[string]*gate{}
	}
	one = &gate{over: make(chan struct{})}
	g.taken[name] = one
	return one, true
}

// pass waits for a tenant's gate and takes it, unless ctx ends before: that is its error.
func (g *gates) pass(ctx context.Context, name string) error {
	for {
		one, taken := g.take(name)
		if taken {
			return nil
		}
		select {
		case <-one.over:
		case <-ctx.Done():
			return errors.Join(history.ErrUnconfirmed, ctx.Err())
		}
	}
}

func (g *gates) end(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.taken[name].over)
	delete(g.taken, name)
}
