package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
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
	remotes  remotes

	owed *owed // nil: the hub is alone

	taking sync.Mutex // held while others' changes are taken in, or a tenant is let go

	// The others are told of what is here under the lock under which it changes, so that
	// what they were told last is so. The broker is not waited for.
	mu  sync.Mutex
	own map[string]map[*delivery.Connection]Session // guarded by mu: what the others were told of, by tenant
}

// Presence keeps who is online of all hubs.
type Presence interface {
	Connected(*delivery.Connection)
	Known(*delivery.Connection)
	Left(c *delivery.Connection, at time.Time)
	Disconnected(*delivery.Connection)
	Touch(c *delivery.Connection, at time.Time)
	Forget(tenant string)
	Freeze(frozen func() bool)
}

// Typists keep who types of all hubs.
type Typists interface {
	Heard(tenant string, p event.Profile, conversation string, started bool)
	Typing(ctx context.Context, tenant string, p event.Profile, conversation string, started bool) error
	CastTo(cast func(who event.TenantProfile, conversation string, started bool))
}

// Config is what a Cluster needs to know.
type Config struct {
	Delivery delivery.Parts
	Pools    *allowance.Pools
	Presence Presence
	Typists  Typists
	Peers    Peers         // nil: the hub is alone
	Back     time.Duration // that a client which was sent away may take to be back
}

// New joins a hub and its presence to others.
func New(cfg Config) *Cluster {
	peers := cfg.Peers
	c := &Cluster{cfg: cfg, presence: cfg.Presence, typists: cfg.Typists, peers: peers, back: cfg.Back, remotes: remotes{quotas: cfg.Pools}, own: map[string]map[*delivery.Connection]Session{}}
	if peers != nil {
		cfg.Presence.Freeze(func() bool { return !peers.Hears() })
		cfg.Typists.CastTo(func(who event.TenantProfile, conversation string, started bool) {
			peers.Cast(who.Tenant, Typing{who.Profile, conversation, started})
		})
		c.owed = &owed{
			peers: peers, ended: cfg.Delivery.Streams.Drained(), of: map[[4]byte]map[string]map[kick]struct{}{},
			kick: func(node [4]byte, k kick) error { return c.kickOn(context.Background(), node, k) },
		}
		cfg.Delivery.Members.AwayBy(peers.Away)
		cfg.Delivery.Streams.Observe(c)
		cfg.Delivery.ShareWith(c, peers.Node())
		peers.Follow(c)
	}
	return c
}

// Alone says that no other hub is known, to which clients could go.
func (x *Cluster) Alone() bool { return x.peers == nil || len(x.peers.Others()) == 0 }

func sessionOf(c *delivery.Connection) Session {
	return Session{ID: c.ID, Profile: c.Profile, ConnectedAt: c.ConnectedAt, ActiveAt: c.LastActivity()}
}

// Connected implements Observer.
func (x *Cluster) Connected(c *delivery.Connection) {
	s := sessionOf(c)
	x.mu.Lock()
	if x.own[c.Tenant] == nil {
		x.own[c.Tenant] = map[*delivery.Connection]Session{}
	}
	x.own[c.Tenant][c] = s
	x.peers.Tell(c.Tenant, SessionChange{Session: s})
	x.mu.Unlock()
	x.presence.Connected(c)
}

// Disconnected implements Observer.
func (x *Cluster) Disconnected(c *delivery.Connection) {
	if c.SentAway() && !x.cfg.Delivery.Streams.Draining() {
		x.presence.Left(c, time.Now().Add(x.back)) // sent back by a hub that stays
	} else {
		x.presence.Disconnected(c)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if delete(x.own[c.Tenant], c); len(x.own[c.Tenant]) == 0 {
		delete(x.own, c.Tenant)
	}
	s := sessionOf(c)
	if c.SentAway() {
		s.Drained = true
		x.peers.Tell(c.Tenant, SessionChange{Session: s})
	}
	x.peers.Tell(c.Tenant, SessionChange{Session: s, Gone: true})
}

// Share implements Sharing.
func (x *Cluster) Share(ctx context.Context, tenant string) error {
	x.remotes.hold(tenant)
	err := x.peers.Hold(ctx, tenant)
	if err != nil {
		x.remotes.release(tenant)
	}
	return err
}

// Unshare implements Sharing.
func (x *Cluster) Unshare(tenant string) {
	x.peers.Release(tenant)
	x.taking.Lock()
	defer x.taking.Unlock()
	x.remotes.release(tenant)
	x.presence.Forget(tenant)
}

// Count implements Sharing.
func (x *Cluster) Count(e *event.Event, belongs func(event.Profile) bool) int {
	return x.remotes.count(e, belongs)
}

// Complete implements Sharing.
func (x *Cluster) Complete(ctx context.Context, tenant string) bool {
	return x.peers.Complete(ctx, tenant)
}

// Empty implements Sharing.
func (x *Cluster) Empty(tenant string) bool { return x.remotes.empty(tenant) }

// Remotes are the ids of the connections that other hubs are known to have, by tenant.
func (x *Cluster) Remotes() map[string][]uuid.UUID { return x.remotes.all() }

// Sessions implements Sink.
func (x *Cluster) Sessions(tenant string) []Session {
	x.mu.Lock()
	defer x.mu.Unlock()
	sessions := make([]Session, 0, len(x.own[tenant]))
	for c, s := range x.own[tenant] {
		s.ActiveAt = c.LastActivity()
		sessions = append(sessions, s)
	}
	return sessions
}

// Changed implements Sink.
func (x *Cluster) Changed(tenant string, changes []SessionChange, known bool, at time.Time) {
	x.taking.Lock()
	defer x.taking.Unlock()
	for _, s := range changes {
		c, came := x.remotes.change(tenant, s)
		switch {
		case c == nil:
		case s.Gone && c.SentAway():
			x.presence.Left(c, time.Now().Add(x.back))
		case s.Gone && at.IsZero():
			x.presence.Left(c, time.Now())
		case s.Gone:
			x.presence.Left(c, at)
		case came && known:
			x.presence.Known(c)
		case came:
			x.presence.Connected(c)
		default:
			x.presence.Touch(c, s.ActiveAt)
		}
	}
}

// Typed implements Sink.
func (x *Cluster) Typed(tenant string, t Typing) {
	x.typists.Heard(tenant, t.Profile, t.Conversation, t.Started)
}

// Typing is Typists.Typing, for the streams of all hubs.
func (x *Cluster) Typing(ctx context.Context, tenant string, ref event.Profile, conversation string, started bool) error {
	return x.typists.Typing(ctx, tenant, ref, conversation, started)
}

func (d Described) connection() *delivery.Connection {
	return delivery.NewRemote(d.ID, d.Tenant, d.Profile, d.ConnectedAt, d.ActiveAt, d.Metadata)
}
