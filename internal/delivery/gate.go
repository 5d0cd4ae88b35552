package delivery

import (
	"context"
	"errors"
	"sync"

	"realtimehub/internal/history"
)

// gates let one at a time do something with a tenant for which the broker and other hubs
// are waited for.
type gates struct {
	mu    sync.Mutex
	taken map[string]*gate // guarded by mu
}

type gate struct {
	over chan struct{} // closed when the gate is free
	err  error         // before that: why a tenant cannot be begun
}

// take takes a tenant's gate, if nobody has: end follows.
func (x *gates) take(name string) (g *gate, taken bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if g := x.taken[name]; g != nil {
		return g, false
	}
	if x.taken == nil {
		x.taken = map[string]*gate{}
	}
	g = &gate{over: make(chan struct{})}
	x.taken[name] = g
	return g, true
}

// pass waits for a tenant's gate and takes it, unless ctx ends before: that is its error.
func (x *gates) pass(ctx context.Context, name string) error {
	for {
		g, taken := x.take(name)
		if taken {
			return nil
		}
		select {
		case <-g.over:
		case <-ctx.Done():
			return errors.Join(history.ErrUnconfirmed, ctx.Err())
		}
	}
}

func (x *gates) end(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.taken[name].over)
	delete(x.taken, name)
}
