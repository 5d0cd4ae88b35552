package delivery

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Connection is one open stream of one profile.
type Connection struct {
	// Static.
	ID          uuid.UUID
	Tenant      string
	Profile     event.Profile
	ConnectedAt time.Time
	Metadata    map[string]string
	Transport   Transport
	encoder     *Encoder       // nil: it is remote
	Stream      *engine.Stream // of one that lingers guarded by the tenant's mu, and another with each request
	linger      *lingering     // nil: it ends with its stream
	remote      bool           // another hub holds it: there is no stream
	session     int64          // bytes of its TLS session

	activeAt atomic.Int64 // Unix nanoseconds

	// Guarded by the tenant's mu.
	filter   *event.Filter
	watch    []watching // nil: as configured; empty: none
	index    int        // in tenant.conns
	joined   bool       // it is in tenant.conns, or was
	removed  bool
	sentAway bool    // closed by a drain: not to be announced
	begun    uint64  // the place after which it is sent everything
	place    uint64  // in the history, that its client knows or will
	behind   *behind // nil: live
	heard    uint64  // the number of the last of the tenant's broadcasts that it was handed
	acks     *acks   // nil: its client acknowledges nothing
	weight   weight

	lifetime *lifetime // guarded by expiry.mu; nil: without end

	// Package presence's own: of its person's connections, the next that were active later and earlier.
	Later, Earlier *Connection
}

// weight is what a connection takes in memory: what it has for itself, and what others
// may have part in.
type weight struct{ own, common int64 }

func (w weight) all() int64 { return w.own + w.common }

// connectionBytes is what is kept of each connection takes, with its place in every table.
const connectionBytes = 1200

// weigh is what a connection takes with these.
func (c *Connection) weigh(types *event.Filter, watch []event.Profile) weight {
	w := weight{own: connectionBytes + orderBytes + types.Bytes() + watchingBytes*int64(len(watch)) + c.session}
	if c.linger != nil {
		w.own += lingeringBytes + sized.Text(c.linger.client)
	}
	if c.acks != nil {
		w.own += acksBytes
	}
	for _, p := range watch {
		w.common += watchedBytes + watchedPlace + p.Bytes()
	}
	if len(c.Metadata) > 0 {
		w.own += 48 + 70*int64(max(len(c.Metadata), 4))
	}
	for key, value := range c.Metadata {
		w.own += sized.Text(key) + sized.Text(value)
	}
	return w
}

func (c *Connection) who() event.TenantProfile {
	return event.TenantProfile{Tenant: c.Tenant, Profile: c.Profile}
}

// NewRemote makes a connection that another hub holds: there is no stream.
func NewRemote(id uuid.UUID, tenant string, p event.Profile, connectedAt, activeAt time.Time, metadata map[string]string) *Connection {
	c := &Connection{ID: id, Tenant: tenant, Profile: p, ConnectedAt: connectedAt, Metadata: metadata, remote: true}
	c.activeAt.Store(activeAt.UnixNano())
	return c
}

// Remote says that another hub holds it.
func (c *Connection) Remote() bool { return c.remote }

// SentAway says that it was closed by a drain, or is about to be: its client comes back to
// another hub, and nobody is told that it left.
func (c *Connection) SentAway() bool { return c.sentAway }

// SetSentAway is for one that another hub holds.
func (c *Connection) SetSentAway(is bool) { c.sentAway = is }

// LastActivity is when the connection was last active.
func (c *Connection) LastActivity() time.Time { return time.Unix(0, c.activeAt.Load()) }

// Active notes an activity, unless a later one is known.
func (c *Connection) Active(at time.Time) {
	for n := at.UnixNano(); ; {
		if last := c.activeAt.Load(); last >= n || c.activeAt.CompareAndSwap(last, n) {
			return
		}
	}
}

// CompareIDs orders connections by when they were opened, as far as hubs' clocks agree.
func CompareIDs(a, b *Connection) int { return slices.Compare(a.ID[:], b.ID[:]) }
