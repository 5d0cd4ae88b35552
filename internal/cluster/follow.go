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

// roll is what hubs tell each other of as they do of a tenant's sessions: which tenants they
// have connections of. No tenant has that name.
const roll = "*"

// rollSession stands for a tenant of which this hub has connections.
func (c *Cluster) rollSession(tenant string) Session {
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
	ready bool                 // what others had when this hub came is known
	names map[uuid.UUID]string // of hubs' words, the tenant
	by    map[string]*followed
}

// followed is a tenant.
type followed struct {
	hubs    int  // that have connections of it, with this one
	old     bool // others had some when this hub came
	release func()
	turn    int // counts what has changed
}

// followAtOnce is how many tenants are taken up at a time.
const followAtOnce = 64

// followTime is how long one may take.
const followTime = 10 * time.Second

// followAgain is after how long a tenant is tried to be known again.
const followAgain = time.Second

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
	if _, known := f.names[s.ID]; known || tenant == "" {
		return
	}
	if f.names == nil {
		f.names, f.by = map[uuid.UUID]string{}, map[string]*followed{}
	}
	f.names[s.ID] = tenant
	x := f.by[tenant]
	if x == nil {
		x = &followed{old: old}
		f.by[tenant] = x
		go f.begin(c, tenant, x)
	}
	x.hubs++
	x.turn++
}

// begin has a tenant known.
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
	tenant, known := f.names[id]
	if !known {
		return
	}
	delete(f.names, id)
	x := f.by[tenant]
	x.hubs--
	x.turn++
	if turn := x.turn; x.hubs == 0 {
		time.AfterFunc(c.cfg.Linger, func() { f.end(tenant, x, turn) })
	}
}

// end lets a tenant go if nothing has changed since.
func (f *following) end(tenant string, x *followed, turn int) {
	f.mu.Lock()
	if x.turn != turn {
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

// followRoll has all tenants known of which any hub has connections.
func (c *Cluster) followRoll() {
	for c.peers.Hold(context.Background(), roll) != nil {
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
	s := c.rollSession(tenant)
	c.following.came(c, s, false)
	c.peers.Tell(roll, SessionChange{Session: s})
}

func (c *Cluster) overLocked(tenant string) {
	if !c.cfg.FollowAll {
		return
	}
	s := c.rollSession(tenant)
	c.following.went(c, s.ID)
	c.peers.Tell(roll, SessionChange{Session: s, Gone: true})
}

// rollSessions is what this hub tells of tenants.
func (c *Cluster) rollSessions() []Session {
	c.mu.Lock()
	tenants := slices.Collect(maps.Keys(c.own))
	c.mu.Unlock()
	sessions := make([]Session, len(tenants))
	for i, tenant := range tenants {
		sessions[i] = c.rollSession(tenant)
	}
	return sessions
}

// of are the words of a hub.
func (f *following) of(hub [4]byte) (ids []uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.names {
		if holderOf(id) == hub {
			ids = append(ids, id)
		}
	}
	return ids
}

// rollChanged takes others' words.
func (c *Cluster) rollChanged(changes []SessionChange, known bool) {
	for _, s := range changes {
		if s.Gone {
			c.following.went(c, s.ID)
		} else {
			c.following.came(c, s.Session, known)
		}
	}
}
