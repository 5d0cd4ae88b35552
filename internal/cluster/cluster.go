package cluster

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster/remote"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// Cluster is the hub and the others it shares its work with, if any: it finds
// connections wherever they are, tells the others of its own, and keeps presence and
// counts those of all.
type Cluster struct {
	cfg      Config
	presence Presence
	typists  Typists
	peers    Peers         // nil: the hub is alone
	back     time.Duration // in which a client that was sent away is back
	remotes  *remote.Connections
	askers   askers

	owed *owed // nil: the hub is alone

	polls atomic.Pointer[func(uuid.UUID, event.TenantProfile, time.Duration) Answer] // nil: nobody polls

	// These guard themselves.
	foremost  foremost
	following following
	returned  chan struct{} // a place for each return that is being passed on

	taking sync.Mutex // held while others' changes are taken in, or a tenant is let go

	// The others are told of what is here under the lock under which it changes, so that
	// what they were told last is so. The broker is not waited for.
	mu  sync.Mutex
	own map[string]*ownConns // guarded by mu: by tenant
}

// Presence keeps who is online of all hubs.
type Presence interface {
	Connected(*delivery.Connection)
	Left(c *delivery.Connection, at time.Time)
	Disconnected(*delivery.Connection)
	Touch(c *delivery.Connection, at time.Time)

	// Those on other hubs. usedAt is the latest activity of all that somebody has there.
	// Came is given back the name, where it is kept as long as who has connections there.
	Came(who event.TenantProfile, usedAt time.Time, news bool) (name *event.ProfileText)
	Used(who event.TenantProfile, usedAt time.Time)
	Went(who event.TenantProfile, usedAt, at time.Time) // one, at a time; usedAt is zero where nothing is left
	Forget(tenant string)
}

// Typists keep who types of all hubs.
type Typists interface {
	Heard(tenant string, p event.Profile, conversation string, started bool)
	Typing(ctx context.Context, tenant string, p event.Profile, conversation string, started bool) error
}

// Config is what a Cluster needs to know.
type Config struct {
	Delivery delivery.Parts
	Pools    *allowance.Pools
	Presence Presence
	Typists  Typists
	Peers    Peers         // nil: the hub is alone
	Back     time.Duration // that a client which was sent away may take to be back

	// Gone is told of connections that have closed with their hub, which was given up, as far as
	// they are known here; nil: nobody asks.
	Gone func(id uuid.UUID, who event.TenantProfile)

	FollowAll bool          // all connections of all hubs are known here, of whichever tenant
	Linger    time.Duration // how long a tenant is known so after its last connection has gone
	Settle    time.Duration // how long a hub may take to know what the others do
}

// New joins a hub and its presence to others.
func New(cfg Config) *Cluster {
	peers := cfg.Peers
	c := &Cluster{
		cfg: cfg, presence: cfg.Presence, typists: cfg.Typists, peers: peers, back: cfg.Back,
		remotes: remote.New(cfg.Pools), askers: askers{peers: peers, counts: cfg.Delivery.Counts}, own: map[string]*ownConns{},
		returned: make(chan struct{}, returnedAtOnce),
	}
	cfg.Delivery.Streams.Observe(c)
	if peers != nil {
		c.owed = &owed{
			peers: peers, ended: cfg.Delivery.Streams.Drained(), of: map[[4]byte]map[string]map[kick]int{},
			kick: func(node [4]byte, k kick) error { return c.kickOn(context.Background(), node, k) },
		}
		cfg.Delivery.Tenants.ShareWith(c)
		peers.Follow(c)
		if cfg.FollowAll {
			go c.followTenants()
		}
	}
	return c
}

// Alone says that no other hub is known, to which clients could go.
func (c *Cluster) Alone() bool { return c.peers == nil || len(c.peers.Others()) == 0 }

func sessionOf(c *delivery.Connection) Session {
	client, asked := c.Asked()
	return Session{ID: c.ID, Profile: c.Profile, ConnectedAt: c.ConnectedAt, ActiveAt: c.LastActivity(), Client: client, AskedAt: asked}
}

// Connected implements Observer.
func (c *Cluster) Connected(conn *delivery.Connection) {
	if c.peers == nil {
		c.presence.Connected(conn)
		return
	}
	s := sessionOf(conn)
	c.mu.Lock()
	if c.own[conn.Tenant] == nil {
		c.own[conn.Tenant] = &ownConns{}
		c.begunLocked(conn.Tenant)
	}
	c.own[conn.Tenant].add(conn)
	c.peers.Tell(conn.Tenant, SessionChange{Session: s})
	c.mu.Unlock()
	c.presence.Connected(conn)
}

// Again implements Observer: other hubs are told where the client is now.
func (c *Cluster) Again(conn *delivery.Connection) {
	if client, _ := conn.Asked(); c.peers != nil && client != "" {
		c.tellOf(conn)
	}
}

// tellOf tells the others of a connection that has changed. It says whether it is there still.
func (c *Cluster) tellOf(conn *delivery.Connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	there := c.own[conn.Tenant].has(conn)
	if there { // or the others would be told of one that has gone, and never again
		c.peers.Tell(conn.Tenant, SessionChange{Session: sessionOf(conn)})
	}
	return there
}

// Disconnected implements Observer.
func (c *Cluster) Disconnected(conn *delivery.Connection) {
	if conn.SentAway() && !c.cfg.Delivery.Streams.Draining() {
		c.presence.Left(conn, time.Now().Add(c.back)) // sent back by a hub that stays
	} else {
		c.presence.Disconnected(conn)
	}
	if c.peers == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if own := c.own[conn.Tenant]; own.remove(conn) && len(own.list) == 0 {
		delete(c.own, conn.Tenant)
		defer c.overLocked(conn.Tenant) // after what is told of the connection
	}
	s := sessionOf(conn)
	if conn.SentAway() {
		s.Drained = true
		c.foremost.sentAway(c.peers.Node(), time.Now())
		c.peers.Tell(conn.Tenant, SessionChange{Session: s})
	}
	c.peers.Tell(conn.Tenant, SessionChange{Session: s, Gone: true})
}

// Share implements Sharing.
func (c *Cluster) Share(ctx context.Context, tenant string) error {
	c.remotes.Hold(tenant)
	err := c.peers.Hold(ctx, tenant)
	if err != nil {
		c.remotes.Release(tenant)
	}
	return err
}

// Unshare implements Sharing.
func (c *Cluster) Unshare(tenant string) {
	c.peers.Release(tenant)
	c.taking.Lock()
	defer c.taking.Unlock()
	c.remotes.Release(tenant)
	c.presence.Forget(tenant)
}

// Count implements Sharing.
func (c *Cluster) Count(e *event.Event, members room.Crowd) int {
	return c.remotes.Count(e, members)
}

// Complete implements Sharing.
func (c *Cluster) Complete(ctx context.Context, tenant string) bool {
	return c.peers.Complete(ctx, tenant)
}

// Empty implements Sharing.
func (c *Cluster) Empty(tenant string) bool { return c.remotes.Empty(tenant) }

// Remotes are the ids of the connections that other hubs are known to have, by tenant.
func (c *Cluster) Remotes() map[string][]uuid.UUID { return c.remotes.All() }

// Any implements Sink.
func (c *Cluster) Any(tenant string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if tenant == tenantsTopic {
		return len(c.own) > 0
	}
	return c.own[tenant] != nil
}

// lost are the hubs that were given up lately.
func (c *Cluster) lost() [][4]byte {
	if c.peers == nil {
		return nil
	}
	_, lost := c.peers.Known()
	return lost
}

// Changed implements Sink.
func (c *Cluster) Changed(tenant string, changes []SessionChange, known bool, at time.Time) {
	c.taking.Lock()
	defer c.taking.Unlock()
	if tenant == tenantsTopic {
		c.tenantsChanged(changes, known)
		return
	}
	known = known && !c.following.news(tenant)
	lost := c.lost()
	if asked := slices.DeleteFunc(slices.Clone(changes), func(s SessionChange) bool { return s.Client == "" }); len(asked) > 0 {
		go c.supersede(tenant, asked) // it waits for a tenant that may be busy
	}
	for _, s := range changes {
		outcome := c.remotes.Change(tenant, remote.Change{ID: s.ID, Profile: s.Profile, ActiveAt: s.ActiveAt, Drained: s.Drained, Gone: s.Gone})
		who := event.TenantProfile{Tenant: tenant, Profile: outcome.Who}
		switch outcome.Kind {
		case remote.Came:
			c.remotes.Share(tenant, c.presence.Came(who, outcome.UsedAt, !known))
		case remote.Used:
			c.presence.Used(who, outcome.UsedAt)
		case remote.Went:
			if c.cfg.Gone != nil && slices.Contains(lost, holderOf(s.ID)) {
				c.cfg.Gone(s.ID, who)
			}
			c.presence.Went(who, outcome.UsedAt, c.wentAt(s.ID, outcome, at))
		}
	}
}

// supersede ends what connections clients have here that have asked another hub since.
func (c *Cluster) supersede(tenant string, asked []SessionChange) {
	for _, s := range asked {
		c.cfg.Delivery.Streams.Supersede(event.TenantProfile{Tenant: tenant, Profile: s.Profile}, s.Client, s.AskedAt)
	}
}

// Has implements Sink.
func (c *Cluster) Has(tenant string, hub [4]byte) []uuid.UUID {
	if tenant == tenantsTopic {
		return c.following.of(hub)
	}
	return slices.DeleteFunc(c.remotes.IDs(tenant), func(id uuid.UUID) bool { return holderOf(id) != hub })
}

// wentAt is until when a connection counts that has gone, its hub at a time; zero: it has told.
func (c *Cluster) wentAt(id uuid.UUID, outcome remote.Outcome, hub time.Time) time.Time {
	here := time.Now()
	switch {
	case outcome.Away:
		c.foremost.sentAway(holderOf(id), here)
		return here.Add(c.back)
	case hub.IsZero():
		return here
	}
	return hub
}

// Typed implements Sink.
func (c *Cluster) Typed(tenant string, t Typing) {
	c.typists.Heard(tenant, t.Profile, t.Conversation, t.Started)
}

// Typing is Typists.Typing, for the streams of all hubs.
func (c *Cluster) Typing(ctx context.Context, tenant string, ref event.Profile, conversation string, started bool) error {
	return c.typists.Typing(ctx, tenant, ref, conversation, started)
}

func (d Described) connection() *delivery.Connection {
	c := delivery.NewRemote(d.ID, d.Tenant, d.Profile, d.ConnectedAt, d.ActiveAt, d.Metadata)
	c.Transport = cmp.Or(d.Transport, delivery.TransportSSE)
	return c
}
