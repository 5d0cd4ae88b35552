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

// What is kept of a connection, and of a person more, takes in bytes, with their places in
// tables and beside names.
const (
	remoteBytes = 32 + 2*25
	personBytes = 48 + 2*17
)

// tenantRemotes is one tenant's.
type tenantRemotes struct {
	mu sync.RWMutex // before counting
	// Guarded by mu.
	sessions sized.Table[uuid.UUID, *session]
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
	return t.sessions.Len() == 0
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
	s := t.sessions.Get(c.ID)
	if c.Gone {
		if s == nil {
			return turned{}
		}
		return t.removeLocked(c.ID, s)
	}
	kind, at := used, c.ActiveAt.UnixNano()
	if s == nil {
		s, kind = t.addLocked(c, at), came
	} else {
		s.who.used(s, at)
	}
	if c.Drained {
		t.away[c.ID] = struct{}{}
	} else {
		delete(t.away, c.ID)
	}
	return turned{kind: kind, who: s.who.ref, usedAt: time.Unix(0, s.who.latest.activeAt)}
}

func (t *tenantRemotes) addLocked(c SessionChange, at int64) *session {
	who := t.people.Get(c.Profile)
	if who == nil {
		who = &person{ref: c.Profile}
		t.people.Put(who)
		t.bytes += personBytes + c.Profile.Bytes()
	}
	s := &session{who: who, activeAt: at}
	who.add(s)
	t.sessions.Put(c.ID, s)
	t.bytes += remoteBytes
	return s
}

func (t *tenantRemotes) removeLocked(id uuid.UUID, s *session) turned {
	who := s.who
	who.remove(s)
	t.sessions.Delete(id)
	t.bytes -= remoteBytes
	_, away := t.away[id]
	delete(t.away, id)
	now := turned{kind: went, who: who.ref, away: away}
	if who.latest != nil {
		now.usedAt = time.Unix(0, who.latest.activeAt)
	} else {
		t.people.Delete(who)
		t.bytes -= personBytes + who.ref.Bytes()
	}
	return now
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
	ids := make([]uuid.UUID, 0, t.sessions.Len())
	for id := range t.sessions.All() {
		ids = append(ids, id)
	}
	return ids
}
