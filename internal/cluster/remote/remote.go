package remote

import (
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Connections are those that other hubs hold, by tenant.
type Connections struct {
	quotas *allowance.Pools // static

	mu      sync.RWMutex
	tenants map[string]*ofTenant // guarded by mu, which is held for no more than a look
}

// New makes none; what is kept of them counts against the tenants' shares of the state.
func New(quotas *allowance.Pools) *Connections {
	return &Connections{quotas: quotas, tenants: map[string]*ofTenant{}}
}

// What is kept of a connection, of one that is not its person's first, and of a person takes in
// bytes, with their places in tables. Names are presence's.
const (
	remoteBytes  = 2 * 25
	sessionBytes = 32
	personBytes  = 32 + 2*17
)

// ofTenant is one tenant's.
type ofTenant struct {
	mu sync.RWMutex // before counting
	// Guarded by mu.
	sessions sessions
	people   sized.Set[event.Profile, *person]
	away     map[uuid.UUID]struct{} // whose hub has sent them away: they are about to go
	bytes    int64                  // that were taken for them

	counting sync.Mutex
	counts   map[event.Room]roomCount // guarded by counting: of large rooms, lately
}

// Change is what another hub tells of a connection.
type Change struct {
	ID       uuid.UUID
	Profile  event.Profile
	ActiveAt time.Time
	Drained  bool // its hub has sent it away: it will be back
	Gone     bool // else it came, or changed
}

// Outcome is what has become of a connection by a change.
type Outcome struct {
	Kind   Kind
	Who    event.Profile
	Away   bool      // it has gone, and will be back
	UsedAt time.Time // the latest activity, of what Who has on other hubs; zero: nothing is left
}

// Kind is what can become of one.
type Kind int

// The kinds there are.
const (
	Nothing Kind = iota // that is news
	Came
	Used
	Went
)

// Hold begins to know a tenant.
func (c *Connections) Hold(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tenants[tenant] == nil {
		c.tenants[tenant] = &ofTenant{away: map[uuid.UUID]struct{}{}}
	}
}

// Release ends it. Nothing of the tenant is changed meanwhile.
func (c *Connections) Release(tenant string) {
	t := c.known(tenant)
	if t == nil {
		return
	}
	c.mu.Lock()
	delete(c.tenants, tenant)
	c.mu.Unlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	c.quotas.State.Give(tenant, t.bytes)
}

// known is what is known of a tenant, nil where nothing is.
func (c *Connections) known(tenant string) *ofTenant {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tenants[tenant]
}

// Empty says that a tenant has none, as far as is known.
func (c *Connections) Empty(tenant string) bool {
	t := c.known(tenant)
	if t == nil {
		return true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sessions.len() == 0
}

// Change takes in what changed of a session.
func (c *Connections) Change(tenant string, change Change) Outcome {
	t := c.known(tenant)
	if t == nil {
		return Outcome{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.bytes
	outcome := t.changeLocked(change)
	if more := t.bytes - before; more > 0 {
		c.quotas.State.Force(tenant, more) // it is there
	} else {
		c.quotas.State.Give(tenant, -more)
	}
	return outcome
}

// changeLocked is Connections.Change.
func (t *ofTenant) changeLocked(c Change) Outcome {
	who, s := t.sessions.get(c.ID)
	if c.Gone {
		if who == nil {
			return Outcome{}
		}
		return t.removeLocked(c.ID, who, s)
	}
	kind, at := Used, c.ActiveAt.UnixNano()
	if who == nil {
		who, kind = t.addLocked(c, at), Came
	} else {
		who.used(s, at)
	}
	if c.Drained {
		t.away[c.ID] = struct{}{}
	} else {
		delete(t.away, c.ID)
	}
	return Outcome{Kind: kind, Who: who.Key(), UsedAt: time.Unix(0, who.usedAt())}
}

func (t *ofTenant) addLocked(c Change, at int64) *person {
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

func (t *ofTenant) removeLocked(id uuid.UUID, who *person, s *session) Outcome {
	who.remove(s)
	t.sessions.remove(id)
	t.bytes -= s.bytes()
	_, away := t.away[id]
	delete(t.away, id)
	outcome := Outcome{Kind: Went, Who: who.Key(), Away: away}
	if who.open > 0 {
		outcome.UsedAt = time.Unix(0, who.usedAt())
	} else {
		t.people.Delete(who)
		t.bytes -= personBytes
	}
	return outcome
}

// bytes is what is kept of a connection; with nil, of its person's first.
func (s *session) bytes() int64 {
	if s == nil {
		return remoteBytes
	}
	return remoteBytes + sessionBytes
}

// Share has a person's name kept once: where presence does.
func (c *Connections) Share(tenant string, name *event.ProfileText) {
	t := c.known(tenant)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if who := t.people.Get(name.Profile()); who != nil {
		who.name = name
	}
}

// IDs are the ids of a tenant's connections.
func (c *Connections) IDs(tenant string) []uuid.UUID { return c.known(tenant).ids() }

// All are the ids of the connections that are known, by tenant.
func (c *Connections) All() map[string][]uuid.UUID {
	c.mu.RLock()
	tenants := maps.Clone(c.tenants)
	c.mu.RUnlock()
	all := map[string][]uuid.UUID{}
	for tenant, t := range tenants {
		all[tenant] = t.ids()
	}
	return all
}

func (t *ofTenant) ids() []uuid.UUID {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sessions.ids()
}
