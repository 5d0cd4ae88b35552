package delivery

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

// Tenants are those that this hub has to do with: each is found, made, attached to the
// history, shared with other hubs, and forgotten.
//
// Order: Members.changing → a gate → tenant.mu → Tenants.mu, which is a leaf. The gates are
// no locks: who waits at one may give up, and nobody waits who has to do with another
// tenant.
type Tenants struct {
	// Static after the start.
	log     history.Log
	rooms   room.Shared // nil: this hub keeps it by itself
	sharing Sharing     // nil: this hub is alone
	quotas  *allowance.Pools
	gates   gates // while a tenant is attached, shared or forgotten

	mu     sync.RWMutex
	byName map[string]*tenant // guarded by mu
}

func newTenants(log history.Log, rooms room.Shared, quotas *allowance.Pools) *Tenants {
	return &Tenants{log: log, rooms: rooms, quotas: quotas, byName: map[string]*tenant{}}
}

func (x *Tenants) names() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Keys(x.byName))
}

// number is how many tenants there are.
func (x *Tenants) number() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.byName)
}

// find returns the tenant locked, nil where there is none.
func (x *Tenants) find(name string) *tenant {
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
func (x *Tenants) tryFind(name string) (t *tenant, busy bool) {
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

// openLocked returns the tenant locked, with its streams' place known and all that
// follows told; an error is the log's.
func (x *Tenants) openLocked(ctx context.Context, name string) (*tenant, error) {
	if err := x.sure(ctx); err != nil {
		return nil, err
	}
	return x.enter(ctx, name, func(t *tenant) bool { return t.attached && (t.shared || !x.InCluster()) })
}

// ensureLocked returns the tenant locked, with what other hubs know of it known here.
func (x *Tenants) ensureLocked(ctx context.Context, name string) (*tenant, error) {
	if err := x.sure(ctx); err != nil {
		return nil, err
	}
	return x.enter(ctx, name, func(t *tenant) bool { return t.shared || !x.InCluster() })
}

// sure waits until what is known here of tenants is what all hubs know.
func (x *Tenants) sure(ctx context.Context) error {
	if x.rooms == nil {
		return nil
	}
	return x.rooms.Sure(ctx)
}

// SureNow is sure for who cannot wait.
func (x *Tenants) SureNow() bool { return x.sure(over) == nil }

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// ensure has what all hubs keep of a tenant known here, for a while.
func (x *Tenants) ensure(ctx context.Context, name string) error { return x.knowing(ctx, name, false) }

// EnsureAll is Know for who is connected as well. ErrSilent: a hub has not told.
func (x *Tenants) EnsureAll(ctx context.Context, name string) error {
	return x.knowing(ctx, name, true)
}

func (x *Tenants) knowing(ctx context.Context, name string, all bool) (err error) {
	if !x.InCluster() {
		return nil
	}
	t, err := x.ensureLocked(ctx, name)
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

// Shared says whether other hubs have a part in tenants.
func (x *Tenants) Shared() bool { return x.sharing != nil }

// shareWith has other hubs have a part in tenants, before the first one is made.
func (x *Tenants) shareWith(s Sharing) { x.sharing = s }

func (x *Tenants) InCluster() bool { return x.sharing != nil || x.rooms != nil }

// enter returns the tenant locked, made where there is none, and made enough.
func (x *Tenants) enter(ctx context.Context, name string, enough func(*tenant) bool) (*tenant, error) {
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
		share := !t.shared && x.InCluster()
		t.mu.Unlock()
		g, first := x.gates.take(name)
		switch {
		case first && x.InCluster(): // it outlives who asked: others want it as well, or the same again
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
func (x *Tenants) begin(t *tenant, g *gate, share bool) {
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

// attach has the log tell of a tenant. It can be found already, so what is appended
// from now on reaches it.
func (x *Tenants) attach(ctx context.Context, t *tenant) error {
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
func (x *Tenants) share(ctx context.Context, t *tenant) error {
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

func (x *Tenants) unshare(name string) {
	if x.rooms != nil {
		x.rooms.Detach(name)
	}
	if x.sharing != nil {
		x.sharing.Unshare(name)
	}
}

// needsLocked says that a tenant must not be forgotten.
func (x *Tenants) needsLocked(t *tenant) bool {
	return len(t.conns) > 0 || t.coming > 0 || t.readers > 0 || !x.InCluster() && (!t.rooms.Empty() || len(t.resolved) > 0)
}

// Open is how many streams a tenant has.
func (x *Tenants) Open(name string) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if t := x.byName[name]; t != nil {
		return int(t.open.Load())
	}
	return 0
}

// Busiest are the n tenants with most streams, of those that have any. It waits for none
// that is busy.
func (x *Tenants) Busiest(n int) []TenantStats {
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
