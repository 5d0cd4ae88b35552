package main

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/due"
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
	unnamed     bool
	Stream      *engine.Stream
	elsewhere   bool // another hub holds it: there is no stream

	lastActivity atomic.Int64 // Unix nanoseconds

	// Guarded by the tenant's mu.
	filter  *event.Filter
	watch   []watching // nil: as configured; empty: none
	index   int        // in tenant.conns
	joined  bool       // it is in tenant.conns, or was
	removed bool
	drained bool    // closed by a drain: not to be announced
	place   uint64  // in the history, that its client knows or will
	behind  *behind // nil: live
	weight  weight

	lifetime *lifetime // guarded by expiry.mu; nil: without end
}

// watching is one profile on a connection's watch list, and the connection's place among
// those who have it on theirs.
type watching struct {
	*watched
	index int32
}

// watched is a profile that connections of a tenant watch.
type watched struct {
	ref event.Profile
	by  []*Connection
}

// weight is what a connection takes in memory: what it has for itself, and what others
// may have part in.
type weight struct{ own, common int64 }

func (w weight) all() int64 { return w.own + w.common }

// What is kept of each connection takes in bytes, with its place in every table, of each
// profile on a watch list, and of a profile that anybody watches, beside its names.
const (
	connectionBytes = 1200
	watchingBytes   = 16 + 16
	watchedBytes    = 64
	watchedPlace    = 2 * 41 // in the tenant's table
)

func weigh(types *event.Filter, watch []event.Profile, metadata map[string]string) weight {
	w := weight{own: connectionBytes + types.Bytes() + watchingBytes*int64(len(watch))}
	for _, p := range watch {
		w.common += watchedBytes + watchedPlace + p.Bytes()
	}
	if len(metadata) > 0 {
		w.own += 48 + 70*int64(max(len(metadata), 4))
	}
	for key, value := range metadata {
		w.own += sized.Text(key) + sized.Text(value)
	}
	return w
}

// watchList is the profiles that c watches.
func (c *Connection) watchList() []event.Profile {
	if c.watch == nil {
		return nil
	}
	list := make([]event.Profile, len(c.watch))
	for i, w := range c.watch {
		list[i] = w.ref
	}
	return list
}

func (c *Connection) who() event.TenantProfile {
	return event.TenantProfile{Tenant: c.Tenant, Profile: c.Profile}
}

// NewRemote makes a connection that another hub holds: there is no stream.
func NewRemote(id uuid.UUID, tenant string, p event.Profile, connectedAt, activeAt time.Time, metadata map[string]string) *Connection {
	c := &Connection{ID: id, Tenant: tenant, Profile: p, ConnectedAt: connectedAt, Metadata: metadata, elsewhere: true}
	c.lastActivity.Store(activeAt.UnixNano())
	return c
}

// Remote says that another hub holds it.
func (c *Connection) Remote() bool { return c.elsewhere }

// SentAway says that it was closed by a drain, or is about to be: its client comes back to
// another hub, and nobody is told that it left.
func (c *Connection) SentAway() bool { return c.drained }

// SetSentAway is for one that another hub holds.
func (c *Connection) SetSentAway(is bool) { c.drained = is }

// LastActivity is when the connection was last active.
func (c *Connection) LastActivity() time.Time { return time.Unix(0, c.lastActivity.Load()) }

// active notes an activity, unless a later one is known.
func (c *Connection) active(at time.Time) {
	for n := at.UnixNano(); ; {
		if last := c.lastActivity.Load(); last >= n || c.lastActivity.CompareAndSwap(last, n) {
			return
		}
	}
}

// compareIDs orders connections by when they were opened, as far as hubs' clocks agree.
func compareIDs(a, b *Connection) int { return slices.Compare(a.ID[:], b.ID[:]) }

// lifetime is of a connection that ends by itself; due is the warning,
// then the end.
type lifetime struct {
	due     due.Item
	conn    *Connection
	expires time.Time
}

func (l *lifetime) Due() *due.Item { return &l.due }

// behind is kept for a connection that is being sent what it missed: events to
// come are read from the history as well, but for those that are not stored.
type behind struct {
	held  []held
	bytes int
	shed  *engine.Frame // in place of what was too much
	count *Counts

	forgot uint64 // stays that ended up to this place may be lacking, and the client knows
}

// held is a frame that is not stored, and the place it comes after.
type held struct {
	after uint64
	frame *engine.Frame
}

// maxHeld is how many bytes are held for a connection that is behind.
const maxHeld = 256 << 10

// hold keeps a frame that is not stored, after a place in the history; or where there
// is no room, tells of a gap in place of all that was held.
func (b *behind) hold(frame *engine.Frame, after uint64) {
	if b.bytes+frame.Len() <= maxHeld {
		b.held = append(b.held, held{after, frame})
		b.bytes += frame.Len()
		return
	}
	dropped := frame.Events()
	for _, h := range b.held {
		dropped += h.frame.Events()
	}
	b.count.behind.Add(int64(dropped))
	if len(b.held) != 1 || b.held[0].frame != b.shed {
		b.count.gaps.Add(GapSlow, 1)
	}
	first := append(b.held, held{after: after})[0]
	b.held, b.bytes = []held{{first.after, b.shed}}, maxHeld
}
