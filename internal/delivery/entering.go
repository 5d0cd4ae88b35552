package delivery

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/history"
)

// enter returns the tenant locked, made where there is none, with these parts of it known.
func (t *Tenants) enter(ctx context.Context, name string, needed parts) (*tenant, error) {
	if err := t.sure(ctx); err != nil {
		return nil, err
	}
	for {
		tenant := t.find(name)
		if tenant == nil {
			t.mu.Lock()
			if t.byName[name] == nil {
				name := strings.Clone(name) // it may be a piece of a whole request
				t.byName[name] = newTenant(name, t.quotas, t.ledger, t.moved)
			}
			t.mu.Unlock()
			continue
		}
		step := t.lackingLocked(tenant, needed)
		if step == nil {
			tenant.usedAt = time.Now()
			return tenant, nil
		}
		tenant.mu.Unlock()
		g, first := t.gates.take(name)
		switch {
		case first && t.waits(): // it outlives who asked: others want it as well, or the same again
			go t.begin(tenant, g, step)
		case first: // nothing is waited for
			t.begin(tenant, g, step)
			if g.err == nil {
				continue
			}
		}
		select {
		case <-g.over:
			if g.err != nil {
				return nil, g.err
			}
		case <-ctx.Done():
			return nil, errors.Join(history.ErrUnconfirmed, ctx.Err())
		}
	}
}

// lackingLocked is the next step by which a tenant gets parts that it lacks, nil where it has
// them.
func (t *Tenants) lackingLocked(tenant *tenant, needed parts) (step func(context.Context, *tenant) error) {
	switch {
	case t.rooms != nil && !tenant.enrolled:
		return t.enrol
	case t.sharing != nil && needed.people && !tenant.shared:
		return t.share
	case needed.log && !tenant.attached:
		return t.attach
	}
	return nil
}

// beginTime is how long a step of a tenant may take.
const beginTime = 2 * time.Minute

// begin takes a step with a tenant, whose gate was taken.
func (t *Tenants) begin(tenant *tenant, g *gate, step func(context.Context, *tenant) error) {
	ctx, cancel := context.WithTimeout(context.Background(), beginTime)
	defer cancel()
	g.err = step(ctx, tenant)
	t.gates.end(tenant.name)
	if g.err != nil {
		t.forget(tenant.name)
	}
}

// attach has the log tell of a tenant. It can be found already, so what is appended
// from now on reaches it.
func (t *Tenants) attach(ctx context.Context, tenant *tenant) error {
	tenant.mu.Lock()
	over := tenant.attached || tenant.forgotten
	tenant.mu.Unlock()
	if over {
		return nil
	}
	for {
		head, err := t.log.Attach(ctx, tenant.name)
		if err != nil {
			return err
		}
		tenant.mu.Lock()
		over = tenant.forgotten
		same := tenant.head.Epoch == history.Epoch{} || tenant.head.Epoch == head.Epoch
		if tenant.attached = same && !over; tenant.attached {
			if tenant.head.Seq <= head.Seq { // else what came after it was told meanwhile
				tenant.head = head
			}
			tenant.rooms.Restart(head.Epoch)
			tenant.rooms.Unsure(tenant.head.Seq) // the tenant may have been here before
		}
		tenant.mu.Unlock()
		if over || !same {
			t.log.Detach(tenant.name)
		}
		if over || same {
			return nil
		}
		tenant.mu.Lock()
		tenant.head = history.Cursor{} // what has been told meanwhile is of another history, or the head is
		tenant.mu.Unlock()
	}
}

// enrol learns who belongs to a tenant's rooms, and is told what changes.
func (t *Tenants) enrol(ctx context.Context, tenant *tenant) error {
	return once(ctx, tenant, &tenant.enrolled, t.rooms.Attach, t.rooms.Detach)
}

// share learns who of a tenant is connected to other hubs, and is told what changes.
func (t *Tenants) share(ctx context.Context, tenant *tenant) error {
	return once(ctx, tenant, &tenant.shared, t.sharing.Share, t.sharing.Unshare)
}

// once begins what is done once with a tenant and then noted, and undoes it where the tenant was
// forgotten meanwhile.
func once(ctx context.Context, tenant *tenant, done *bool, begin func(context.Context, string) error, undo func(string)) error {
	tenant.mu.Lock()
	over := *done || tenant.forgotten
	tenant.mu.Unlock()
	if over {
		return nil
	}
	if err := begin(ctx, tenant.name); err != nil {
		return err
	}
	tenant.mu.Lock()
	*done = !tenant.forgotten
	over = tenant.forgotten
	tenant.mu.Unlock()
	if over {
		undo(tenant.name)
	}
	return nil
}

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
