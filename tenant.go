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

	changing sync.Mutex // held while a shared room is changed; before mu

	mu sync.Mutex
	// Guarded by mu.
	head      Cursor       // the last place that was handed to streams
	attached  bool         // head is known, and the log tells of all that follows
	shared    bool         // what other hubs know of it is known, and what changes
	gathered  sse.Delivery // what is to be flushed
	unmarked  traffic      // since the places of quiet streams moved on
	rooms     Rooms
	resolved  map[Room]*resolved // what rooms holds of a Resolver's answers
	peers     map[ProfileRef]*peer
	conns     []*Connection // in no order; a connection knows its index
	present   map[Room]map[*peer]struct{}
	watchers  map[ProfileRef]map[*Connection]struct{}
	accepted  int64 // events that were published to this hub, since it was found
	forgotten bool  // no longer in Hub.tenants
}

type resolved struct {
	roster *Roster
	used   time.Time
	at     uint64 // the tenant's place then
}

// traffic is how much was delivered, and since when.
type traffic struct {
	events int
	bytes  int64
	since  time.Time
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
	elsewhere   bool // another hub holds it: there is no stream

	lastActivity atomic.Int64 // Unix nanoseconds

	// Guarded by the tenant's mu.
	filter  *TypeFilter
	watch   []ProfileRef // nil: as configured; empty: none
	index   int          // in tenant.conns
	removed bool
	drained bool    // closed by a drain: not to be announced
	place   uint64  // in the history, that its client knows or will
	behind  *behind // nil: live

	lifetime *lifetime // guarded by expiry.mu; nil: without end
}

// lifetime is of a connection that ends by itself; its deadline is the warning,
// then the end.
type lifetime struct {
	deadline
	conn    *Connection
	expires time.Time
}

// behind is kept for a connection that is being sent what it missed: events to
// come are read from the history as well, but for those that are not stored.
type behind struct {
	held  []held
	bytes int
	shed  *sse.Frame // in place of what was too much
	count *hubCounts
}

// held is a frame that is not stored, and the place it comes after.
type held struct {
	after uint64
	frame *sse.Frame
}

// maxHeld is how many bytes are held for a connection that is behind.
const maxHeld = 256 << 10

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
	r.used, r.at = now, t.head.Seq
}

func (t *tenant) setMembersLocked(room Room, members []ProfileRef) {
	join, leave := t.rooms.Differ(room, members)
	t.changeMembersLocked(room, join, leave)
}

// changeMembersLocked has profiles join and leave a room, as of now.
func (t *tenant) changeMembersLocked(room Room, join, leave []ProfileRef) {
	for _, p := range join {
		t.rooms.Add(room, p, t.head.Seq)
		t.joinedLocked(room, p)
	}
	for _, p := range leave {
		t.rooms.Remove(room, p, t.head.Seq)
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

// sendLocked hands c a frame of an event with a place in the history, or of one
// that has none (0).
func (t *tenant) sendLocked(d *sse.Delivery, c *Connection, frame *sse.Frame, place uint64) {
	switch b := c.behind; {
	case b == nil && place == 0:
		d.Send(c.Stream, frame)
	case b == nil && place > c.place:
		c.place = place
		d.Send(c.Stream, frame)
	case b == nil || place > 0: // it had it, or will
	case b.bytes+frame.Len() <= maxHeld:
		b.held = append(b.held, held{t.head.Seq, frame})
		b.bytes += frame.Len()
	default:
		dropped := frame.Events()
		for _, h := range b.held {
			dropped += h.frame.Events()
		}
		b.count.behind.Add(int64(dropped))
		if len(b.held) != 1 || b.held[0].frame != b.shed {
			b.count.gaps.add(GapSlow, 1)
		}
		first := append(b.held, held{after: t.head.Seq})[0]
		b.held, b.bytes = []held{{first.after, b.shed}}, maxHeld
	}
}

// markLocked moves the places of quiet streams on, with bare ids: their clients
// would come back as expired although they missed nothing.
func (t *tenant) markLocked(d *sse.Delivery, now time.Time) {
	t.unmarked = traffic{since: now}
	var mark *sse.Frame
	for _, c := range t.conns {
		if c.behind != nil || c.place >= t.head.Seq {
			continue
		}
		if mark == nil {
			mark = sse.NewFrame(sse.AppendID(nil, t.head.String()), false)
		}
		t.sendLocked(d, c, mark, t.head.Seq)
	}
}

// parcel is an event on its way to streams: framed at most once each way.
type parcel struct {
	event  *Event
	data   []byte      // the envelope
	place  uint64      // 0: not stored
	cursor string      // empty: not stored
	only   *Connection // that a target of this kind names, whichever tenant's
	since  time.Time   // when it was published; zero: not to be timed

	notProfiles map[ProfileRef]struct{}
	notConns    map[uuid.UUID]struct{}

	named, unnamed *sse.Frame
}

// pack makes an event of the hub's own ready, which is not stored.
func pack(e *Event) *parcel {
	return &parcel{event: e, data: e.AppendEnvelope(make([]byte, 0, len(e.Payload)+320))}
}

// parcelOf makes an entry ready for streams.
func parcelOf(e *Entry) parcel {
	p := parcel{event: e.Event, data: e.Envelope}
	if e.Event.Stored() {
		p.place, p.cursor = e.Cursor.Seq, e.Cursor.String()
	}
	p.exclude(&e.Event.Target)
	return p
}

// exclude notes whom a target leaves out.
func (p *parcel) exclude(t *Target) {
	if excluded := t.ExcludeProfiles; len(excluded) > 0 {
		p.notProfiles = make(map[ProfileRef]struct{}, len(excluded))
		for _, ref := range excluded {
			p.notProfiles[ref] = struct{}{}
		}
	}
	if excluded := t.ExcludeConnections; len(excluded) > 0 {
		p.notConns = make(map[uuid.UUID]struct{}, len(excluded))
		for _, text := range excluded {
			if id, err := uuid.Parse(text); err == nil { // no connection has another kind of id
				p.notConns[id] = struct{}{}
			}
		}
	}
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
		*frame = sse.NewEvents(p.append(b, unnamed), 1, p.cursor == "", p.since)
	}
	return *frame
}

// deliverLocked hands a parcel to its target's connections and counts them.
func (t *tenant) deliverLocked(d *sse.Delivery, p *parcel) (n int) {
	target := &p.event.Target
	give := func(c *Connection) {
		if p.excludes(c) {
			return
		}
		n++
		if c.filter.Wants(p.event.Type) {
			t.sendLocked(d, c, p.frame(c.unnamed), p.place)
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
		for peer := range t.present[room] {
			giveAll(peer)
		}
	}
	return n
}

// flush lets go what has been gathered, and unlocks the tenant, which is locked.
func (t *tenant) flush() {
	d := t.gathered
	t.gathered = sse.Delivery{}
	t.mu.Unlock()
	d.Flush()
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
					t.sendWantedLocked(d, c, parcel)
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

func (t *tenant) sendWantedLocked(d *sse.Delivery, c *Connection, p *parcel) {
	if c.filter.Wants(p.event.Type) {
		t.sendLocked(d, c, p.frame(c.unnamed), p.place)
	}
}

// bundle is several parcels for many streams, in one frame for those that want all.
type bundle struct {
	parcels        []*parcel
	named, unnamed *sse.Frame
}

func (t *tenant) sendBundleLocked(d *sse.Delivery, c *Connection, b *bundle) {
	if c.filter != nil {
		for _, p := range b.parcels {
			t.sendWantedLocked(d, c, p)
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
		*frame = sse.NewEvents(data, len(b.parcels), true, time.Time{})
	}
	t.sendLocked(d, c, *frame, 0)
}
