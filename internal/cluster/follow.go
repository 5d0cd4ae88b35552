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
	places chan struct{} // static

	mu sync.Mutex
	// Guarded by mu.
	ready   bool                 // what others had when this hub came is known
	tenants map[uuid.UUID]string // of which hubs have told, by the session's id
	by      map[string]*followed // tenant
}

// followed is a tenant that is known. following.mu guards it.
type followed struct {
	hubs    int    // that have connections of it, with this one
	old     bool   // others had some when this hub came
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
		go f.begin(c, tenant, x)
	}
	x.hubs++
	x.changes++
}

// begin has a tenant known, unless it ends before.
func (f *following) begin(c *Cluster, tenant string, x *followed) {
	for {
		f.places <- struct{}{}
		ctx, cancel := context.WithTimeout(context.Background(), followTime)
		release, err := c.cfg.Delivery.Tenants.Keep(ctx, tenant)
		cancel()
		<-f.places
		f.mu.Lock()
		if f.by[tenant] != x { // it has ended meanwhile
			f.mu.Unlock()
			if err == nil {
				release()
			}
			return
		}
		x.release = release
		f.mu.Unlock()
		if err == nil {
			return
		}
		select {
		case <-time.After(followAgain):
		case <-c.cfg.Delivery.Streams.Drained():
			return
		}
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
