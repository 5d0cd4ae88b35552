package main

import (
	"slices"
	"sync"
	"time"

	"realtimehub/internal/sse"
)

// tenant is one tenant's streams and their order. Its methods need its lock,
// which who finds it holds.
type tenant struct {
	name string // static

	changing sync.Mutex // held while a shared room is changed; before mu

	mu sync.Mutex
	// Guarded by mu.
	head      Cursor       // the last place that was handed to streams
	attached  bool         // head is known, and the log tells of all that follows
	shared    bool         // what other hubs know of it is known, and what changes
	gathered  sse.Delivery // what is to be flushed
	mark      *sse.Frame   // tells the place markAt, made when it is needed
	markAt    Cursor
	rooms     Rooms
	resolved  map[Room]*resolved // what rooms holds of a Resolver's answers
	people    map[ProfileRef]*person
	conns     []*Connection // in no order; a connection knows its index
	coming    int           // that are admitted, and not yet among conns
	present   map[Room]map[*person]struct{}
	watchers  map[ProfileRef]map[*Connection]struct{}
	accepted  int64 // events that were published to this hub, since it was found
	forgotten bool  // no longer among the tenants
}

type resolved struct {
	roster *Roster
	used   time.Time
	at     uint64 // the tenant's place then
}

// person is a profile that has connections.
type person struct {
	ref   ProfileRef
	conns []*Connection
}

func (t *tenant) removeLocked(c *Connection) {
	c.removed = true
	t.watchLocked(c, nil)
	end := len(t.conns) - 1
	t.conns[c.index] = t.conns[end]
	t.conns[c.index].index = c.index
	t.conns[end] = nil
	t.conns = t.conns[:end]

	p := t.people[c.Profile]
	p.conns = slices.DeleteFunc(p.conns, func(other *Connection) bool { return other == c })
	if len(p.conns) == 0 {
		delete(t.people, p.ref)
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

// adoptLocked brings the tenant's rooms up to a Resolver's answer, unless they are up
// to a later one.
func (t *tenant) adoptLocked(room Room, roster *Roster, now time.Time) {
	if roster == nil {
		return
	}
	r := t.resolved[room]
	if r == nil {
		r = &resolved{}
		t.resolved[room] = r
	}
	if r.roster != roster && (r.roster == nil || roster.asked >= r.roster.asked) {
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
	if p := t.people[ref]; p != nil {
		link(t.present, room, p)
	}
}

func (t *tenant) leftLocked(room Room, ref ProfileRef) {
	if p := t.people[ref]; p != nil {
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
	default:
		b.hold(frame, t.head.Seq)
	}
}

// beatLocked sends what is due on a stream about once a heartbeat: the place of one that
// is live, if its client does not know it, or else the comment, if any. Without the
// place a quiet client would come back from far behind.
func (t *tenant) beatLocked(d *sse.Delivery, c *Connection, comment *sse.Frame) {
	switch {
	case c.removed || c.drained:
	case c.behind == nil && c.place < t.head.Seq:
		if t.mark == nil || t.markAt != t.head {
			t.mark, t.markAt = sse.NewFrame(sse.AppendID(nil, t.head.String()), false), t.head
		}
		c.place = t.head.Seq
		d.Send(c.Stream, t.mark)
	case comment != nil:
		d.Send(c.Stream, comment)
	}
}

// knownLocked is the place that c's client knows once it has had all that it is owed;
// empty before it has caught up.
func (t *tenant) knownLocked(c *Connection) string {
	if !c.joined || c.behind != nil {
		return ""
	}
	return t.head.String()
}

// deliverLocked hands a parcel to its target's connections and counts them, and the
// members of its room.
func (t *tenant) deliverLocked(d *sse.Delivery, p *parcel) (n int32) {
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
	giveAll := func(p *person) {
		if p != nil {
			for _, c := range p.conns {
				give(c)
			}
		}
	}
	switch target.Kind {
	case KindProfile, KindProfiles:
		for _, ref := range target.Profiles {
			giveAll(t.people[ref])
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
		p.members = int32(t.rooms.Len(room))
		for p := range t.present[room] {
			giveAll(p)
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

// notifyLocked is Notify for the streams of one tenant.
func (t *tenant) notifyLocked(d *sse.Delivery, notices []Notice, digest *Event, shared bool) {
	parcels := make([]*parcel, len(notices))
	for i, n := range notices {
		parcels[i] = pack(n.Event)
		for c := range t.watchers[n.About] {
			if !shared || c.Profile == n.About || t.rooms.Share(c.Profile, n.About) {
				t.sendWantedLocked(d, c, parcels[i])
			}
		}
	}
	all := parcels
	if digest != nil {
		all = []*parcel{pack(digest)}
	}
	if !shared {
		whole := &bundle{parcels: all}
		for _, c := range t.conns {
			if c.watch == nil {
				t.sendBundleLocked(d, c, whole)
			}
		}
	} else {
		t.notifySharedLocked(d, notices, all, digest != nil)
	}
}

func (t *tenant) notifySharedLocked(d *sse.Delivery, notices []Notice, parcels []*parcel, digest bool) {
	told := map[*person]bool{}
	visited := map[Room]bool{}
	for i, n := range notices {
		parcel := parcels[0]
		if !digest {
			parcel = parcels[i]
			clear(told)
			clear(visited)
		}
		tell := func(p *person) {
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
		tell(t.people[n.About])
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

func (t *tenant) sendBundleLocked(d *sse.Delivery, c *Connection, b *bundle) {
	if c.filter != nil {
		for _, p := range b.parcels {
			t.sendWantedLocked(d, c, p)
		}
		return
	}
	t.sendLocked(d, c, b.frame(c.unnamed), 0)
}
