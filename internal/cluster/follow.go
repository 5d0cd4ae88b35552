package cluster

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/event"
)

// tenantsTopic is told of as a tenant is: each session in it is a tenant of which a hub has
// connections. No tenant has that name.
const tenantsTopic = "*"

// tenantSession is what this hub tells of a tenant of which it has connections.
func (c *Cluster) tenantSession(tenant string) Session {
	hash, mark := sha256.Sum256([]byte(tenant)), c.peers.Node()
	id := uuid.UUID(hash[:16])
	copy(id[len(id)-len(mark):], mark[:])
	return Session{ID: id, Profile: event.Profile{Type: "tenant", ID: tenant}}
}

// following is the tenants that this hub knows all of though it may have nobody there: it tells
// of their people, also when the hub is killed that had all of them.
type following struct {
	mu sync.Mutex
	// Guarded by mu.
	ready   bool                 // what others had when this hub came is known
	tenants map[uuid.UUID]string // of which hubs have told, by the session's id
	by      map[string]*followed // tenant
	waiting []string             // tenants that are to be taken up, the first first
	working int                  // goroutines that take them up
}

// followed is a tenant that is known, or is to be. following.mu guards it.
type followed struct {
	hubs    int    // that have connections of it, with this one
	old     bool   // others had some when this hub came
	begun   bool   // it is taken up, or is about to be
	release func() // ends it; nil: it is not known yet
	changes int    // of hubs
}

const (
	followAtOnce = 64               // tenants that are taken up at a time
	followTime   = 10 * time.Second // that one may take
	followAgain  = time.Second      // after which one that failed is tried again
)

// news says whether sessions are news of which this hub learns as it takes up their tenant.
func (f *following) news(tenant string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.by[tenant]
	return f.ready && x != nil && !x.old
}

// came says that a hub has connections of a tenant; old, that it had when this hub came.
func (f *following) came(c *Cluster, s Session, old bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tenant := s.Profile.ID
	if _, known := f.tenants[s.ID]; known || tenant == "" {
		return
	}
	if f.tenants == nil {
		f.tenants, f.by = map[uuid.UUID]string{}, map[string]*followed{}
	}
	f.tenants[s.ID] = tenant
	x := f.by[tenant]
	if x == nil {
		x = &followed{old: old}
		f.by[tenant] = x
		f.beginLocked(c, tenant)
	}
	x.hubs++
	x.changes++
}

// beginLocked has a tenant taken up in its turn.
func (f *following) beginLocked(c *Cluster, tenant string) {
	f.waiting = append(f.waiting, tenant)
	if f.working < followAtOnce {
		f.working++
		go f.work(c)
	}
}

// work takes up tenants until none waits.
func (f *following) work(c *Cluster) {
	for tenant, x := f.next(); x != nil; tenant, x = f.next() {
		f.takeUp(c, tenant, x)
	}
}

// next is the tenant whose turn it is; nil: none waits.
func (f *following) next() (tenant string, x *followed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.waiting) > 0 {
		tenant, f.waiting = f.waiting[0], f.waiting[1:]
		if x = f.by[tenant]; x != nil && !x.begun {
			x.begun = true
			return tenant, x
		}
	}
	f.waiting = nil
	f.working--
	return "", nil
}

// takeUp has a tenant known, or tries it again later.
func (f *following) takeUp(c *Cluster, tenant string, x *followed) {
	ctx, cancel := context.WithTimeout(context.Background(), followTime)
	defer cancel()
	release, err := c.cfg.Delivery.Tenants.Keep(ctx, tenant)
	f.mu.Lock()
	ended := f.by[tenant] != x // meanwhile
	x.release = release
	f.mu.Unlock()
	switch {
	case ended && err == nil:
		release()
	case !ended && err != nil && !c.cfg.Delivery.Streams.Draining():
		time.AfterFunc(followAgain, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			x.begun = false
			f.beginLocked(c, tenant)
		})
	}
}

// went says that a hub has no connection of a tenant any more. When none has, the tenant is
// known as long as somebody may be back.
func (f *following) went(c *Cluster, id uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tenant, known := f.tenants[id]
	if !known {
		return
	}
	delete(f.tenants, id)
	x := f.by[tenant]
	x.hubs--
	x.changes++
	if changes := x.changes; x.hubs == 0 {
		time.AfterFunc(c.cfg.Linger, func() { f.end(tenant, x, changes) })
	}
}

// end lets a tenant go if no hub has changed since.
func (f *following) end(tenant string, x *followed, changes int) {
	f.mu.Lock()
	if x.changes != changes {
		f.mu.Unlock()
		return
	}
	delete(f.by, tenant)
	release := x.release
	f.mu.Unlock()
	if release != nil {
		release()
	}
}

// followTenants has all tenants known of which any hub has connections.
func (c *Cluster) followTenants() {
	for c.peers.Hold(context.Background(), tenantsTopic) != nil {
		select {
		case <-time.After(followAgain):
		case <-c.cfg.Delivery.Streams.Drained():
			return
		}
	}
	c.following.mu.Lock()
	c.following.ready = true
	c.following.mu.Unlock()
}

// begunLocked tells others that this hub has connections of a tenant, overLocked that it has none.
func (c *Cluster) begunLocked(tenant string) {
	if !c.cfg.FollowAll {
		return
	}
	s := c.tenantSession(tenant)
	c.following.came(c, s, false)
	c.peers.Tell(tenantsTopic, SessionChange{Session: s})
}

func (c *Cluster) overLocked(tenant string) {
	if !c.cfg.FollowAll {
		return
	}
	s := c.tenantSession(tenant)
	c.following.went(c, s.ID)
	c.peers.Tell(tenantsTopic, SessionChange{Session: s, Gone: true})
}

// tenantSessions is what this hub tells of all its tenants.
func (c *Cluster) tenantSessions() []Session {
	c.mu.Lock()
	tenants := slices.Collect(maps.Keys(c.own))
	c.mu.Unlock()
	sessions := make([]Session, len(tenants))
	for i, tenant := range tenants {
		sessions[i] = c.tenantSession(tenant)
	}
	return sessions
}

// of are the sessions that a hub has told.
func (f *following) of(hub [4]byte) (ids []uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.tenants {
		if holderOf(id) == hub {
			ids = append(ids, id)
		}
	}
	return ids
}

// tenantsChanged takes in what other hubs tell of their tenants.
func (c *Cluster) tenantsChanged(changes []SessionChange, known bool) {
	for _, s := range changes {
		if s.Gone {
			c.following.went(c, s.ID)
		} else {
			c.following.came(c, s.Session, known)
		}
	}
}
