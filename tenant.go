package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/sse"
)

// tenant is one tenant's streams and their order. Its methods need its lock;
// the Hub's own methods take it.
type tenant struct {
	name string // static

	mu sync.Mutex
	// Guarded by mu.
	log       Log
	rooms     Rooms
	resolved  map[Room]*resolved // what rooms holds of a Resolver's answers
	peers     map[ProfileRef]*peer
	conns     []*Connection // in no order; a connection knows its index
	present   map[Room]map[*peer]struct{}
	watchers  map[ProfileRef]map[*Connection]struct{}
	forgotten bool // no longer in Hub.tenants
}

type resolved struct {
	roster *Roster
	used   time.Time
}

// peer is a profile that has connections.
type peer struct {
	ref   ProfileRef
	conns []*Connection
}

// Connection is one open stream of one profile.
type Connection struct {
	// Static.
	ID          uuid.UUID
	Tenant      string
	Profile     ProfileRef
	ConnectedAt time.Time
	Metadata    map[string]string
	unnamed     bool
	Stream      *sse.Stream

	lastActivity atomic.Int64 // Unix nanoseconds

	// Guarded by the tenant's mu.
	filter  *TypeFilter
	watch   []ProfileRef // nil: as configured; empty: none
	index   int          // in tenant.conns
	removed bool
}

// LastActivity is when the connection was last active.
func (c *Connection) LastActivity() time.Time { return time.Unix(0, c.lastActivity.Load()) }

func (t *tenant) removeLocked(c *Connection) {
	c.removed = true
	t.watchLocked(c, nil)
	end := len(t.conns) - 1
	t.conns[c.index] = t.conns[end]
	t.conns[c.index].index = c.index
	t.conns[end] = nil
	t.conns = t.conns[:end]

	p := t.peers[c.Profile]
	p.conns = slices.DeleteFunc(p.conns, func(other *Connection) bool { return other == c })
	if len(p.conns) == 0 {
		delete(t.peers, p.ref)
		for room := range t.rooms.Of(p.ref) {
			unlink(t.present, room, p)
		}
	}
}

func (t *tenant) watchLocked(c *Connection, watch []ProfileRef) {
	for _, p := range c.watch {
		unlink(t.watchers, p, c)
	}
	c.watch = watch
	for _, p := range watch {
		link(t.watchers, p, c)
	}
}

// adoptLocked brings the tenant's rooms up to a Resolver's answer.
func (t *tenant) adoptLocked(room Room, roster *Roster, now time.Time) {
	if roster == nil {
		return
	}
	r := t.resolved[room]
	if r == nil {
		r = &resolved{}
		t.resolved[room] = r
	}
	if r.roster != roster {
		r.roster = roster
		t.setMembersLocked(room, roster.Members)
	}
	r.used = now
}

func (t *tenant) setMembersLocked(room Room, members []ProfileRef) {
	added, removed := t.rooms.Replace(room, members)
	for _, p := range added {
		t.joinedLocked(room, p)
	}
	for _, p := range removed {
		t.leftLocked(room, p)
	}
}

func (t *tenant) joinedLocked(room Room, ref ProfileRef) {
	if p := t.peers[ref]; p != nil {
		link(t.present, room, p)
	}
}

func (t *tenant) leftLocked(room Room, ref ProfileRef) {
	if p := t.peers[ref]; p != nil {
		unlink(t.present, room, p)
	}
}

// parcel is an event on its way: encoded once, framed at most once each way.
type parcel struct {
	event  *Event
	data   []byte // the envelope
	cursor string // empty: not stored
	roster *Roster
	only   *Connection // that a target of this kind names, whichever tenant's

	notProfiles map[ProfileRef]struct{}
	notConns    map[uuid.UUID]struct{}

	named, unnamed *sse.Frame
}

func pack(e *Event) *parcel {
	p := &parcel{event: e, data: e.AppendEnvelope(make([]byte, 0, len(e.Payload)+320))}
	if excluded := e.Target.ExcludeProfiles; len(excluded) > 0 {
		p.notProfiles = make(map[ProfileRef]struct{}, len(excluded))
		for _, ref := range excluded {
			p.notProfiles[ref] = struct{}{}
		}
	}
	if excluded := e.Target.ExcludeConnections; len(excluded) > 0 {
		p.notConns = make(map[uuid.UUID]struct{}, len(excluded))
		for _, text := range excluded {
			if id, err := uuid.Parse(text); err == nil { // no connection has another kind of id
				p.notConns[id] = struct{}{}
			}
		}
	}
	return p
}

func (p *parcel) excludes(c *Connection) bool {
	_, profile := p.notProfiles[c.Profile]
	_, conn := p.notConns[c.ID]
	return profile || conn
}

func (p *parcel) append(b []byte, unnamed bool) []byte {
	name := p.event.Type
	if unnamed {
		name = ""
	}
	b, _ = sse.AppendEvent(b, p.cursor, name, p.data) // validated: a type has no CR, LF or NUL
	return b
}

func (p *parcel) frame(unnamed bool) *sse.Frame {
	frame := &p.named
	if unnamed {
		frame = &p.unnamed
	}
	if *frame == nil {
		b := make([]byte, 0, len(p.data)+len(p.cursor)+len(p.event.Type)+24)
		*frame = sse.NewFrame(p.append(b, unnamed), p.cursor == "")
	}
	return *frame
}

// deliverLocked hands a parcel to its target's connections and counts them.
func (t *tenant) deliverLocked(d *sse.Delivery, p *parcel, now time.Time) (n int) {
	target := &p.event.Target
	give := func(c *Connection) {
		if p.excludes(c) {
			return
		}
		n++
		if c.filter.Wants(p.event.Type) {
			d.Send(c.Stream, p.frame(c.unnamed))
		}
	}
	giveAll := func(p *peer) {
		if p != nil {
			for _, c := range p.conns {
				give(c)
			}
		}
	}
	switch target.Kind {
	case KindProfile, KindProfiles:
		for _, ref := range target.Profiles {
			giveAll(t.peers[ref])
		}
	case KindTenant:
		for _, c := range t.conns {
			give(c)
		}
	case KindConnection:
		if p.only != nil && p.only.Tenant == t.name && !p.only.removed {
			give(p.only)
		}
	default:
		room, _ := target.Room()
		t.adoptLocked(room, p.roster, now)
		for peer := range t.present[room] {
			giveAll(peer)
		}
	}
	return n
}

// Notice is an ephemeral event of the hub's own about one profile.
type Notice struct {
	About ProfileRef
	Event *Event
}

func (t *tenant) notifySharedLocked(d *sse.Delivery, notices []Notice, parcels []*parcel, digest bool) {
	told := map[*peer]bool{}
	visited := map[Room]bool{}
	for i, n := range notices {
		parcel := parcels[0]
		if !digest {
			parcel = parcels[i]
			clear(told)
			clear(visited)
		}
		tell := func(p *peer) {
			if p == nil || told[p] {
				return
			}
			told[p] = true
			for _, c := range p.conns {
				if c.watch == nil {
					sendWanted(d, c, parcel)
				}
			}
		}
		tell(t.peers[n.About])
		for room := range t.rooms.Of(n.About) {
			if !visited[room] {
				visited[room] = true
				for p := range t.present[room] {
					tell(p)
				}
			}
		}
	}
}

func sendWanted(d *sse.Delivery, c *Connection, p *parcel) {
	if c.filter.Wants(p.event.Type) {
		d.Send(c.Stream, p.frame(c.unnamed))
	}
}

// bundle is several parcels for many streams, in one frame for those that want all.
type bundle struct {
	parcels        []*parcel
	named, unnamed *sse.Frame
}

func (b *bundle) send(d *sse.Delivery, c *Connection) {
	if c.filter != nil {
		for _, p := range b.parcels {
			sendWanted(d, c, p)
		}
		return
	}
	frame := &b.named
	if c.unnamed {
		frame = &b.unnamed
	}
	if *frame == nil {
		var data []byte
		for _, p := range b.parcels {
			data = p.append(data, c.unnamed)
		}
		*frame = sse.NewFrame(data, true)
	}
	d.Send(c.Stream, *frame)
}
