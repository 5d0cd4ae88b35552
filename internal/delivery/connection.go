package delivery

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
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

// Transport says by which door a connection came; the word is the contract's.
type Transport string

// The doors there are.
const (
	TransportSSE       Transport = "sse"
	TransportWebSocket Transport = "websocket"
	TransportSignalR   Transport = "signalr"
	TransportPoll      Transport = "poll"
)

// noTransports is how many connections came by each door before there are any.
func noTransports() map[Transport]int64 {
	return map[Transport]int64{TransportSSE: 0, TransportWebSocket: 0, TransportSignalR: 0, TransportPoll: 0}
}

// watching is one profile on a connection's watch list, and the connection's place among
// those who have it on theirs.
type watching struct {
	of    *watched
	index int32
}

// watched is a profile that connections of a tenant watch.
type watched struct {
	profile event.Profile
	by      []*Connection
}

// So many bytes each profile on a watch list takes; and, once for all lists that it is on,
// itself beside its names and its place in the tenant's table.
const (
	watchingBytes = 16 + 16
	watchedBytes  = 64
	watchedPlace  = 2 * 41
)

// watchList is the profiles that c watches.
func (c *Connection) watchList() []event.Profile {
	if c.watch == nil {
		return nil
	}
	list := make([]event.Profile, len(c.watch))
	for i, w := range c.watch {
		list[i] = w.of.profile
	}
	return list
}

// keepLocked takes what a connection weighs, or is to weigh from now on, of its tenant's
// and its person's shares, with a watch list; settleLocked follows when that is there.
func (t *tenant) keepLocked(c *Connection, w weight, watch []event.Profile) error {
	own := w.own - c.weight.own
	if err := t.takeLocked(own + t.unwatchedLocked(watch)); err != nil {
		return err
	}
	if !t.quotas.Person.Take(c.who(), w.all()-c.weight.all()) {
		t.settleLocked()
		return allowance.ErrPerson
	}
	t.bytes += own
	c.weight = w
	return nil
}

// dropLocked gives back what a connection weighs.
func (t *tenant) dropLocked(c *Connection) {
	t.bytes -= c.weight.own
	t.quotas.Person.Give(c.who(), c.weight.all())
	t.settleLocked()
}

// watchLocked gives a connection another watch list: nil is as configured.
func (t *tenant) watchLocked(c *Connection, watch []event.Profile) {
	for _, w := range c.watch {
		of := w.of
		last := of.by[len(of.by)-1]
		of.by[w.index] = last
		for i := range last.watch {
			if last.watch[i].of == of {
				last.watch[i].index = w.index
			}
		}
		if sized.Pull(&of.by, &t.bytes); len(of.by) == 0 {
			t.watchers.Delete(of.profile)
			t.bytes -= watchedBytes + of.profile.Bytes()
		}
	}
	c.watch = nil
	if watch != nil {
		c.watch = make([]watching, 0, len(watch))
	}
	for _, p := range watch {
		w := t.watchers.Get(p)
		if w == nil {
			w = &watched{profile: p}
			t.watchers.Put(p, w)
			t.bytes += watchedBytes + p.Bytes()
		}
		c.watch = append(c.watch, watching{w, int32(len(w.by))})
		sized.Push(&w.by, c, &t.bytes)
	}
}

// unwatchedLocked is what a watch list takes that nobody has part in yet.
func (t *tenant) unwatchedLocked(watch []event.Profile) (n int64) {
	for _, p := range watch {
		if t.watchers.Get(p) == nil {
			n += watchedBytes + watchedPlace + p.Bytes()
		}
	}
	return n
}

// watching are the connections that watch a profile.
func (t *tenant) watching(p event.Profile) []*Connection {
	if w := t.watchers.Get(p); w != nil {
		return w.by
	}
	return nil
}
