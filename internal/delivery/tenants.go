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
	// Ask is Count of events of tenants that are not shared: other hubs are asked at once, and
	// counts waits for them. CannotCount: one is of a version that cannot.
	Ask(events []*event.Event) (counts func(context.Context) []int)
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

// parts says what is to be known here of a tenant, beside its rooms.
type parts struct {
	people bool // who is connected to other hubs
	log    bool // the streams' place, and what is appended from now on
}

// openLocked returns the tenant locked, with its streams' place known and all that
// follows told; an error is the log's.
func (t *Tenants) openLocked(ctx context.Context, name string) (*tenant, error) {
	return t.enter(ctx, name, parts{people: true, log: true})
}

// ensureLocked returns the tenant locked, with what other hubs know of it known here.
func (t *Tenants) ensureLocked(ctx context.Context, name string) (*tenant, error) {
	return t.enter(ctx, name, parts{people: true})
}

// roomsLocked is ensureLocked for who needs to know nobody that is connected.
func (t *Tenants) roomsLocked(ctx context.Context, name string) (*tenant, error) {
	return t.enter(ctx, name, parts{})
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

// ensure has a tenant's rooms known here, for a while.
func (t *Tenants) ensure(ctx context.Context, name string) error {
	return t.ensureFor(ctx, name, false)
}

// EnsureAll is ensure, and has known who is connected to other hubs. ErrSilent: a hub has not told.
func (t *Tenants) EnsureAll(ctx context.Context, name string) error {
	return t.ensureFor(ctx, name, true)
}

func (t *Tenants) ensureFor(ctx context.Context, name string, all bool) (err error) {
	if !t.InCluster() {
		return nil
	}
	tenant, err := t.enter(ctx, name, parts{people: all})
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

// ShareWith names what other hubs know of tenants, before the first one is made.
func (t *Tenants) ShareWith(s Sharing) { t.sharing = s }

// InCluster says that other hubs have a part in tenants, or keep their rooms.
func (t *Tenants) InCluster() bool { return t.sharing != nil || t.rooms != nil }

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
		case first && t.InCluster(): // it outlives who asked: others want it as well, or the same again
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
