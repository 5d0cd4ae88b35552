package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
	"realtimehub/internal/room"
)

// Sharing is what hubs of one cluster know of each other. A hub that is alone has
// none (nil).
type Sharing interface {
	// Share has the tenant's connections elsewhere known, until Unshare.
	Share(ctx context.Context, tenant string) error
	Unshare(tenant string)
	// Count is how many connections elsewhere an event's target resolves to; belongs
	// says who is in its room.
	Count(e *event.Event, belongs func(event.Profile) bool) int
	// Complete says whether all hubs that are there have told of a tenant that is shared.
	Complete(ctx context.Context, tenant string) bool
	// Empty says that nobody is connected elsewhere.
	Empty(tenant string) bool
}

// tenants are those that this hub has to do with: each is found, made, attached to the
// history, shared with other hubs, and forgotten.
//
// Order: members.changing → a gate → tenant.mu → tenants.mu, which is a leaf. The gates are
// no locks: who waits at one may give up, and nobody waits who has to do with another
// tenant.
type tenants struct {
	// Static after the start.
	log     history.Log
	rooms   room.Shared // nil: this hub keeps it by itself
	sharing Sharing     // nil: this hub is alone
	quotas  *allowance.Pools
	gates   gates // while a tenant is attached, shared or forgotten

	mu     sync.RWMutex
	byName map[string]*tenant // guarded by mu
}

func newTenants(log history.Log, rooms room.Shared, quotas *allowance.Pools) *tenants {
	return &tenants{log: log, rooms: rooms, quotas: quotas, byName: map[string]*tenant{}}
}

func (x *tenants) names() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Keys(x.byName))
}

// find returns the tenant locked, nil where there is none.
func (x *tenants) find(name string) *tenant {
	for {
		x.mu.RLock()
		t := x.byName[name]
		x.mu.RUnlock()
		if t == nil {
			return nil
		}
		t.mu.Lock()
		if !t.forgotten {
			return t
		}
		t.mu.Unlock()
	}
}

// tryFind is find for who must not wait for a tenant that is busy.
func (x *tenants) tryFind(name string) (t *tenant, busy bool) {
	x.mu.RLock()
	t = x.byName[name]
	x.mu.RUnlock()
	switch {
	case t == nil:
		return nil, false
	case !t.mu.TryLock():
		return nil, true
	case t.forgotten:
		t.mu.Unlock()
		return nil, true // there may be another of its name
	}
	return t, false
}

// open returns the tenant locked, with its streams' place known and all that
// follows told; an error is the log's.
func (x *tenants) open(ctx context.Context, name string) (*tenant, error) {
	if err := x.sure(ctx); err != nil {
		return nil, err
	}
	return x.enter(ctx, name, func(t *tenant) bool { return t.attached && (t.shared || !x.inCluster()) })
}

// know returns the tenant locked, with what other hubs know of it known here.
func (x *tenants) know(ctx context.Context, name string) (*tenant, error) {
	if err := x.sure(ctx); err != nil {
		return nil, err
	}
	return x.enter(ctx, name, func(t *tenant) bool { return t.shared || !x.inCluster() })
}

// sure waits until what is known here of tenants is what all hubs know.
func (x *tenants) sure(ctx context.Context) error {
	if x.rooms == nil {
		return nil
	}
	return x.rooms.Sure(ctx)
}

// sureNow is sure for who cannot wait.
func (x *tenants) sureNow() bool { return x.sure(over) == nil }

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// Know has what all hubs keep of a tenant known here, for a while.
func (x *tenants) Know(ctx context.Context, name string) error { return x.knowing(ctx, name, false) }

// KnowAll is Know for who is connected as well. ErrSilent: a hub has not told.
func (x *tenants) KnowAll(ctx context.Context, name string) error { return x.knowing(ctx, name, true) }

func (x *tenants) knowing(ctx context.Context, name string, all bool) (err error) {
	if !x.inCluster() {
		return nil
	}
	t, err := x.know(ctx, name)
	if err != nil {
		return err
	}
	if all && x.sharing != nil {
		t.readers++
		t.mu.Unlock()
		if !x.sharing.Complete(ctx, name) {
			err = ErrSilent
		}
		t.mu.Lock()
		t.readers--
	}
	nothing := len(t.conns)+t.coming == 0 && t.rooms.Empty() && x.sharing.Empty(name)
	t.mu.Unlock()
	if nothing {
		x.forget(name) // there is none: a read makes none
	}
	return err
}

func (x *tenants) inCluster() bool { return x.sharing != nil || x.rooms != nil }

// enter returns the tenant locked, made where there is none, and made enough.
func (x *tenants) enter(ctx context.Context, name string, enough func(*tenant) bool) (*tenant, error) {
	for {
		t := x.find(name)
		if t == nil {
			x.mu.Lock()
			if x.byName[name] == nil {
				name := strings.Clone(name) // it may be a piece of a whole request
				x.byName[name] = &tenant{name: name, quotas: x.quotas, resolved: map[event.Room]*resolved{}, bytes: tenantBytes}
			}
			x.mu.Unlock()
			continue
		}
		if enough(t) {
			return t, nil
		}
		share := !t.shared && x.inCluster()
		t.mu.Unlock()
		g, first := x.gates.take(name)
		switch {
		case first && x.inCluster(): // it outlives who asked: others want it as well, or the same again
			go x.begin(t, g, share)
		case first: // nothing is waited for
			x.begin(t, g, share)
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

// beginTime is how long a tenant may take to be shared or attached.
const beginTime = 2 * time.Minute

// begin shares or attaches a tenant, whose gate was taken.
func (x *tenants) begin(t *tenant, g *gate, share bool) {
	ctx, cancel := context.WithTimeout(context.Background(), beginTime)
	defer cancel()
	if share {
		g.err = x.share(ctx, t)
	} else {
		g.err = x.attach(ctx, t)
	}
	x.gates.end(t.name)
	if g.err != nil {
		x.forget(t.name)
	}
}

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

// attach has the log tell of a tenant. It can be found already, so what is appended
// from now on reaches it.
func (x *tenants) attach(ctx context.Context, t *tenant) error {
	t.mu.Lock()
	over := t.attached || t.forgotten
	t.mu.Unlock()
	if over {
		return nil
	}
	for {
		head, err := x.log.Attach(ctx, t.name)
		if err != nil {
			return err
		}
		t.mu.Lock()
		over = t.forgotten
		same := t.head.Epoch == history.Epoch{} || t.head.Epoch == head.Epoch
		if t.attached = same && !over; t.attached && t.head.Seq <= head.Seq {
			t.head = head
			t.rooms.Restart(head.Epoch)
			t.rooms.Unsure(head.Seq) // the tenant may have been here before
		}
		t.mu.Unlock()
		if over || !same {
			x.log.Detach(t.name)
		}
		if over || same {
			return nil
		}
		t.mu.Lock()
		t.head = history.Cursor{} // what has been told meanwhile is of another history, or the head is
		t.mu.Unlock()
	}
}

// share learns what other hubs know of a tenant, and is told what changes.
func (x *tenants) share(ctx context.Context, t *tenant) error {
	t.mu.Lock()
	over := t.shared || t.forgotten
	t.mu.Unlock()
	if over {
		return nil
	}
	if x.rooms != nil {
		if err := x.rooms.Attach(ctx, t.name); err != nil {
			return err
		}
	}
	if x.sharing != nil {
		if err := x.sharing.Share(ctx, t.name); err != nil {
			if x.rooms != nil {
				x.rooms.Detach(t.name)
			}
			return err
		}
	}
	t.mu.Lock()
	t.shared = !t.forgotten
	over = t.forgotten
	t.mu.Unlock()
	if over {
		x.unshare(t.name)
	}
	return nil
}

func (x *tenants) unshare(name string) {
	if x.rooms != nil {
		x.rooms.Detach(name)
	}
	if x.sharing != nil {
		x.sharing.Unshare(name)
	}
}

// forget drops a tenant that has no stream, and no membership but what all hubs of
// the cluster keep. Who waits for a tenant that is busy holds nothing that others need.
func (x *tenants) forget(name string) {
	t := x.find(name)
	if t == nil {
		return
	}
	needed := x.needsLocked(t)
	t.mu.Unlock()
	if needed {
		return
	}
	if _, taken := x.gates.take(name); !taken {
		return // somebody begins it, or forgets it already
	}
	defer x.gates.end(name) // when all is undone, so that nobody begins anew before
	if t = x.find(name); t == nil {
		return
	}
	if x.needsLocked(t) {
		t.mu.Unlock()
		return
	}
	t.forgotten = true
	x.quotas.State.Give(t.name, t.charged)
	x.mu.Lock()
	delete(x.byName, name)
	x.mu.Unlock()
	attached, shared := t.attached, t.shared
	t.flush() // a stream that was closed meanwhile may have been gathered before
	if attached {
		x.log.Detach(name)
	}
	if shared {
		x.unshare(name)
	}
}

// needsLocked says that a tenant must not be forgotten.
func (x *tenants) needsLocked(t *tenant) bool {
	return len(t.conns) > 0 || t.coming > 0 || t.readers > 0 || !x.inCluster() && (!t.rooms.Empty() || len(t.resolved) > 0)
}

// Open is how many streams a tenant has.
func (x *tenants) Open(name string) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if t := x.byName[name]; t != nil {
		return int(t.open.Load())
	}
	return 0
}

// TenantStats is one tenant's part.
type TenantStats struct {
	Name     string
	Streams  int
	Accepted int64 // events, since the tenant was last found here
}

// Busiest are the n tenants with most streams, of those that have any. It waits for none
// that is busy.
func (x *tenants) Busiest(n int) []TenantStats {
	var all []TenantStats
	x.mu.RLock()
	for name, t := range x.byName {
		if open := t.open.Load(); open > 0 {
			all = append(all, TenantStats{name, int(open), t.accepted.Load()})
		}
	}
	x.mu.RUnlock()
	slices.SortFunc(all, func(a, b TenantStats) int {
		return cmp.Or(cmp.Compare(b.Streams, a.Streams), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(n, len(all))]
}

var ErrSilent = problem.New("another hub does not answer", problem.Problem{Status: http.StatusServiceUnavailable, Code: "HubUnavailable", Detail: "another hub does not answer; ask again"})
