package delivery

import (
	"context"
	"errors"
	"net/http"
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
	// Share has the tenant's connections on other hubs known, until Unshare.
	Share(ctx context.Context, tenant string) error
	Unshare(tenant string)
	// Count is how many connections on other hubs an event's target resolves to, of whose room
	// these are the members.
	Count(e *event.Event, members room.Crowd) int
	// Complete says whether all hubs that are there have told of a tenant that is shared.
	Complete(ctx context.Context, tenant string) bool
	// Empty says that nobody is connected to another hub.
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
	gates   gates                                                 // while a tenant is attached, shared or forgotten
	moved   func(tenant string, room event.Room, p event.Profile) // nil: nobody is told
	ledger  *ledger

	mu     sync.RWMutex
	byName map[string]*tenant // guarded by mu
}

func newTenants(log history.Log, rooms room.Shared, quotas *allowance.Pools) *Tenants {
	return &Tenants{log: log, rooms: rooms, quotas: quotas, ledger: newLedger(), byName: map[string]*tenant{}}
}

// number is how many tenants there are.
func (t *Tenants) number() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byName)
}

// find returns the tenant locked, nil where there is none.
func (t *Tenants) find(name string) *tenant {
	for {
		t.mu.RLock()
		tenant := t.byName[name]
		t.mu.RUnlock()
		if tenant == nil {
			return nil
		}
		tenant.mu.Lock()
		if !tenant.forgotten {
			return tenant
		}
		tenant.mu.Unlock()
	}
}

// tryFind is find for who must not wait for a tenant that is busy.
func (t *Tenants) tryFind(name string) (tenant *tenant, busy bool) {
	t.mu.RLock()
	tenant = t.byName[name]
	t.mu.RUnlock()
	switch {
	case tenant == nil:
		return nil, false
	case !tenant.mu.TryLock():
		return nil, true
	case tenant.forgotten:
		tenant.mu.Unlock()
		return nil, true // there may be another of its name
	}
	return tenant, false
}

// openLocked returns the tenant locked, with its streams' place known and all that
// follows told; an error is the log's.
func (t *Tenants) openLocked(ctx context.Context, name string) (*tenant, error) {
	if err := t.sure(ctx); err != nil {
		return nil, err
	}
	return t.enter(ctx, name, func(tenant *tenant) bool { return tenant.attached && (tenant.shared || !t.InCluster()) })
}

// ensureLocked returns the tenant locked, with what other hubs know of it known here.
func (t *Tenants) ensureLocked(ctx context.Context, name string) (*tenant, error) {
	if err := t.sure(ctx); err != nil {
		return nil, err
	}
	return t.enter(ctx, name, func(tenant *tenant) bool { return tenant.shared || !t.InCluster() })
}

// sure waits until what is known here of tenants is what all hubs know.
func (t *Tenants) sure(ctx context.Context) error {
	if t.rooms == nil {
		return nil
	}
	return t.rooms.Sure(ctx)
}

// SureNow is sure for who cannot wait.
func (t *Tenants) SureNow() bool { return t.sure(over) == nil }

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// ensure has what all hubs keep of a tenant known here, for a while.
func (t *Tenants) ensure(ctx context.Context, name string) error {
	return t.ensureFor(ctx, name, false)
}

// EnsureAll has what all hubs keep of a tenant known here, and who is connected to them. ErrSilent: a hub has not told.
func (t *Tenants) EnsureAll(ctx context.Context, name string) error {
	return t.ensureFor(ctx, name, true)
}

func (t *Tenants) ensureFor(ctx context.Context, name string, all bool) (err error) {
	if !t.InCluster() {
		return nil
	}
	tenant, err := t.ensureLocked(ctx, name)
	if err != nil {
		return err
	}
	if all && t.sharing != nil {
		tenant.readers++
		tenant.mu.Unlock()
		if !t.sharing.Complete(ctx, name) {
			err = ErrSilent
		}
		tenant.mu.Lock()
		tenant.readers--
	}
	t.leaveLocked(tenant) // a read makes none
	return err
}

// leaveLocked unlocks a tenant, and forgets it where nothing is known of it.
func (t *Tenants) leaveLocked(tenant *tenant) {
	tenant.markLocked()
	nothing := len(tenant.conns)+tenant.coming == 0 && tenant.rooms.Empty() && (t.sharing == nil || t.sharing.Empty(tenant.name))
	tenant.mu.Unlock()
	if nothing {
		t.forget(tenant.name)
	}
}

// Shared says whether other hubs have a part in tenants.
func (t *Tenants) Shared() bool { return t.sharing != nil }

// ShareWith names what other hubs know of tenants, before the first one is made.
func (t *Tenants) ShareWith(s Sharing) { t.sharing = s }

// InCluster says that other hubs have a part in tenants, or keep their rooms.
func (t *Tenants) InCluster() bool { return t.sharing != nil || t.rooms != nil }

// enter returns the tenant locked, made where there is none, and made enough.
func (t *Tenants) enter(ctx context.Context, name string, enough func(*tenant) bool) (*tenant, error) {
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
		if enough(tenant) {
			return tenant, nil
		}
		share := !tenant.shared && t.InCluster()
		tenant.mu.Unlock()
		g, first := t.gates.take(name)
		switch {
		case first && t.InCluster(): // it outlives who asked: others want it as well, or the same again
			go t.begin(tenant, g, share)
		case first: // nothing is waited for
			t.begin(tenant, g, share)
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
func (t *Tenants) begin(tenant *tenant, g *gate, share bool) {
	ctx, cancel := context.WithTimeout(context.Background(), beginTime)
	defer cancel()
	if share {
		g.err = t.share(ctx, tenant)
	} else {
		g.err = t.attach(ctx, tenant)
	}
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
		if tenant.attached = same && !over; tenant.attached && tenant.head.Seq <= head.Seq {
			tenant.head = head
			tenant.rooms.Restart(head.Epoch)
			tenant.rooms.Unsure(head.Seq) // the tenant may have been here before
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

// share learns what other hubs know of a tenant, and is told what changes.
func (t *Tenants) share(ctx context.Context, tenant *tenant) error {
	tenant.mu.Lock()
	over := tenant.shared || tenant.forgotten
	tenant.mu.Unlock()
	if over {
		return nil
	}
	if t.rooms != nil {
		if err := t.rooms.Attach(ctx, tenant.name); err != nil {
			return err
		}
	}
	if t.sharing != nil {
		if err := t.sharing.Share(ctx, tenant.name); err != nil {
			if t.rooms != nil {
				t.rooms.Detach(tenant.name)
			}
			return err
		}
	}
	tenant.mu.Lock()
	tenant.shared = !tenant.forgotten
	over = tenant.forgotten
	tenant.mu.Unlock()
	if over {
		t.unshare(tenant.name)
	}
	return nil
}

func (t *Tenants) unshare(name string) {
	if t.rooms != nil {
		t.rooms.Detach(name)
	}
	if t.sharing != nil {
		t.sharing.Unshare(name)
	}
}

// needsLocked says that a tenant must not be forgotten.
func (t *Tenants) needsLocked(tenant *tenant) bool {
	return len(tenant.conns) > 0 || tenant.coming > 0 || tenant.readers > 0 || !t.InCluster() && (!tenant.rooms.Empty() || len(tenant.resolved) > 0)
}

// Open is how many streams a tenant has.
func (t *Tenants) Open(name string) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if tenant := t.byName[name]; tenant != nil {
		return int(tenant.open.Load())
	}
	return 0
}

// Busiest are the n tenants with most streams, of those that have any. It waits for none
// that is busy.
func (t *Tenants) Busiest(n int) []TenantStats { return t.ledger.busiest(n) }

// ErrSilent is of a hub that does not answer: what it has is not known.
var ErrSilent = problem.New("another hub does not answer", problem.Problem{Status: http.StatusServiceUnavailable, Code: "HubUnavailable", Detail: "another hub does not answer; ask again"})
