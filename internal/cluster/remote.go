package cluster

import (
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// remotes is the connections that other hubs hold, of the tenants that this one holds. Of each
// it keeps whose it is and when it was last active, which presence and counts need. All else its
// own hub is asked.
type remotes struct {
	quotas *allowance.Pools // static

	mu      sync.RWMutex
	tenants map[string]*tenantRemotes // guarded by mu, which is held for no more than a look
}

// What is kept of a connection, of one that is not its person's first, and of a person takes in
// bytes, with their places in tables. Names are presence's.
const (
	remoteBytes  = 2 * 25
	sessionBytes = 32
	personBytes  = 32 + 2*17
)

// tenantRemotes is one tenant's.
type tenantRemotes struct {
	mu sync.RWMutex // before counting
	// Guarded by mu.
	sessions sessions
	people   sized.Set[event.Profile, *person]
	away     map[uuid.UUID]struct{} // whose hub has sent them away: they are about to go
	bytes    int64                  // that were taken for them

	counting sync.Mutex
	counts   map[event.Room]roomCount // guarded by counting: of large rooms, lately
}

// turned is what has become of a connection that another hub holds.
type turned struct {
	kind   turnedKind
	who    event.Profile
	away   bool      // it has gone, and will be back
	usedAt time.Time // the latest activity, of what who has on other hubs; zero: nothing is left
}

// turnedKind is what can become of one.
type turnedKind int

const (
	nothing turnedKind = iota // that is news
	came
	used
	went
)

// hold begins to know a tenant.
func (r *remotes) hold(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants == nil {
		r.tenants = map[string]*tenantRemotes{}
	}
	if r.tenants[tenant] == nil {
		r.tenants[tenant] = &tenantRemotes{away: map[uuid.UUID]struct{}{}}
	}
}

// release ends it. Nothing of the tenant is changed meanwhile.
func (r *remotes) release(tenant string) {
	t := r.known(tenant)
	if t == nil {
		return
	}
	r.mu.Lock()
	delete(r.tenants, tenant)
	r.mu.Unlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	r.quotas.State.Give(tenant, t.bytes)
}

// known is what is known of a tenant, nil where nothing is.
func (r *remotes) known(tenant string) *tenantRemotes {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.tenants[tenant]
}

func (r *remotes) empty(tenant string) bool {
	t := r.known(tenant)
	if t == nil {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sessions.len() == 0
}

// change takes in what changed of a session.
func (r *remotes) change(tenant string, c SessionChange) turned {
	t := r.known(tenant)
	if t == nil {
		return turned{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.bytes
	now := t.changeLocked(c)
	if more := t.bytes - before; more > 0 {
		r.quotas.State.Force(tenant, more) // it is there
	} else {
		r.quotas.State.Give(tenant, -more)
	}
	return now
}

// changeLocked is remotes.change.
func (t *tenantRemotes) changeLocked(c SessionChange) turned {
	who, s := t.sessions.get(c.ID)
	if c.Gone {
		if who == nil {
			return turned{}
		}
		return t.removeLocked(c.ID, who, s)
	}
	kind, at := used, c.ActiveAt.UnixNano()
	if who == nil {
		who, kind = t.addLocked(c, at), came
	} else {
		who.used(s, at)
	}
	if c.Drained {
		t.away[c.ID] = struct{}{}
	} else {
		delete(t.away, c.ID)
	}
	return turned{kind: kind, who: who.Key(), usedAt: time.Unix(0, who.usedAt())}
}

func (t *tenantRemotes) addLocked(c SessionChange, at int64) *person {
	who := t.people.Get(c.Profile)
	if who == nil {
		name := c.Profile.Text()
		who = &person{name: &name, firstAt: none}
		t.people.Put(who)
		t.bytes += personBytes
	}
	s := who.add(at)
	t.sessions.put(c.ID, who, s)
	t.bytes += s.bytes()
	return who
}

func (t *tenantRemotes) removeLocked(id uuid.UUID, who *person, s *session) turned {
	who.remove(s)
	t.sessions.remove(id)
	t.bytes -= s.bytes()
	_, away := t.away[id]
	delete(t.away, id)
	now := turned{kind: went, who: who.Key(), away: away}
	if who.open > 0 {
		now.usedAt = time.Unix(0, who.usedAt())
	} else {
		t.people.Delete(who)
		t.bytes -= personBytes
	}
	return now
}

// bytes is what is kept of a connection; with nil, of its person's first.
func (s *session) bytes() int64 {
	if s == nil {
		return remoteBytes
	}
	return remoteBytes + sessionBytes
}

// share has a person's name kept once: where presence does.
func (r *remotes) share(tenant string, name *event.ProfileText) {
	t := r.known(tenant)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if who := t.people.Get(name.Profile()); who != nil {
		who.name = name
	}
}

// of are the connections that a hub has.
func (r *remotes) of(tenant string, hub [4]byte) (ids []uuid.UUID) {
	for _, id := range r.known(tenant).ids() {
		if holderOf(id) == hub {
			ids = append(ids, id)
		}
	}
	return ids
}

// all are the ids of the connections that are known, by tenant.
func (r *remotes) all() map[string][]uuid.UUID {
	r.mu.RLock()
	tenants := maps.Clone(r.tenants)
	r.mu.RUnlock()
	all := map[string][]uuid.UUID{}
	for tenant, t := range tenants {
		all[tenant] = t.ids()
	}
	return all
}

func (t *tenantRemotes) ids() []uuid.UUID {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sessions.ids()
}
