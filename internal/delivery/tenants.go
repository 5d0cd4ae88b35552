package delivery

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/largest"
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

// Moves has moved called, with the tenant locked, whenever somebody joins a room or leaves it.
// It is named before there is a tenant. Without it nobody is told.
func (t *Tenants) Moves(moved func(tenant string, room event.Room, p event.Profile)) { t.moved = moved }

// InCluster says that other hubs have a part in tenants, or keep their rooms.
func (t *Tenants) InCluster() bool { return t.sharing != nil || t.rooms != nil }

// waits says that what is known of tenants is asked for: of a store or of other hubs.
func (t *Tenants) waits() bool {
	_, here := t.log.(*history.Memory)
	return !here || t.InCluster()
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

// Keep has what all hubs know of a tenant known here until release is called.
func (t *Tenants) Keep(ctx context.Context, name string) (release func(), err error) {
	tenant, err := t.ensureLocked(ctx, name)
	if err != nil {
		return nil, err
	}
	tenant.readers++
	tenant.mu.Unlock()
	return func() {
		tenant.mu.Lock()
		tenant.readers--
		t.leaveLocked(tenant)
	}, nil
}

// ledger is what is known of all tenants together, so that nobody has to look at all of them.
type ledger struct {
	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	prunable map[string]struct{}    // those at which Prune may find something
	streams  largest.Sizes[*tenant] // how many each has
}

func newLedger() *ledger {
	return &ledger{
		prunable: map[string]struct{}{},
		streams:  largest.Sizes[*tenant]{Before: func(a, b *tenant) bool { return a.name < b.name }},
	}
}

// mark has Prune look at a tenant.
func (l *ledger) mark(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prunable[name] = struct{}{}
}

// unmark has Prune look at it no longer.
func (l *ledger) unmark(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.prunable, name)
}

// marked are the names of those that Prune looks at.
func (l *ledger) marked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.prunable))
}

// has notes how many streams a tenant has.
func (l *ledger) has(t *tenant, streams int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams.Set(t, int64(streams))
}

// busiest are the n tenants with most streams, of those that have any.
func (l *ledger) busiest(n int) []TenantStats {
	l.mu.Lock()
	top := l.streams.Top(n)
	l.mu.Unlock()
	all := make([]TenantStats, len(top))
	for i, t := range top {
		all[i] = TenantStats{t.name, int(t.open.Load()), t.accepted.Load()}
	}
	slices.SortFunc(all, func(a, b TenantStats) int {
		return cmp.Or(cmp.Compare(b.Streams, a.Streams), cmp.Compare(a.Name, b.Name)) // it may have changed
	})
	return all
}
