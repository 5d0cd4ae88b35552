package outbox

import (
	"context"
	"sync"
)

// turns let one at a time in of each tenant, and so many of all.
type turns struct {
	places chan struct{} // static; has one for each who is in

	mu sync.Mutex
	of map[string]*turn // guarded by mu
}

// turn is a tenant's.
type turn struct {
	taken   chan struct{} // has one while somebody is in
	waiting int           // or in
}

func newTurns(atOnce int) *turns {
	return &turns{places: make(chan struct{}, atOnce), of: map[string]*turn{}}
}

// take waits for a turn, which is over when done is called.
func (t *turns) take(ctx context.Context, tenant string) (done func(), err error) {
	t.mu.Lock()
	own := t.of[tenant]
	if own == nil {
		own = &turn{taken: make(chan struct{}, 1)}
		t.of[tenant] = own
	}
	own.waiting++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.waiting--; own.waiting == 0 {
			delete(t.of, tenant)
		}
	}
	select {
	case own.taken <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	select {
	case t.places <- struct{}{}:
	case <-ctx.Done():
		<-own.taken
		leave()
		return nil, ctx.Err()
	}
	return func() {
		<-t.places
		<-own.taken
		leave()
	}, nil
}
