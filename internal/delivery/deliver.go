package delivery

import (
	"math"
	"slices"
	"sync/atomic"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// deliverLocked hands a parcel to its target's connections, and counts the members of its room.
// A whole tenant, a large room, and many who are named, hear it by and by.
func (t *tenant) deliverLocked(p *parcel) {
	target := &p.event.Target
	switch target.Kind {
	case event.KindProfile, event.KindProfiles:
		if len(target.Profiles) > int(walkPiece.Load()) && p.entry != nil {
			t.broadcastParcelLocked(audience{entry: p.entry}, p)
			return
		}
		for _, ref := range target.Profiles {
			t.tellAllLocked(t.connsLocked(ref), p)
		}
	case event.KindTenant:
		t.broadcastParcelLocked(everybody, p)
	case event.KindConnection:
		if p.only != nil && p.only.Tenant == t.name && !p.only.removed {
			t.tellLocked(p.only, p)
		}
	default:
		room, _ := target.Room()
		t.deliverToRoomLocked(room, p)
	}
}

func (t *tenant) deliverToRoomLocked(room event.Room, p *parcel) {
	place := p.place
	if place == 0 { // it is for whoever is a member now, however far behind the history is
		place = math.MaxUint64
	}
	here, size := t.rooms.Here(room, place)
	p.members = int32(size)
	if now, _ := t.rooms.Here(room, math.MaxUint64); len(here) > int(walkPiece.Load()) && len(here) == len(now) {
		t.broadcastParcelLocked(audience{room: room}, p)
		return
	}
	for _, m := range here {
		t.tellAllLocked(m.Conns(), p)
	}
}

// broadcastParcelLocked has an audience hear of a parcel.
func (t *tenant) broadcastParcelLocked(to audience, p *parcel) {
	own, after := *p, t.head.Seq // they outlive the call
	t.broadcastLocked(to, func(c *Connection) { t.giveLocked(c, &own, after) })
}

// tellAllLocked is tellLocked for all connections of somebody.
func (t *tenant) tellAllLocked(conns []*Connection, p *parcel) {
	for _, c := range conns {
		t.tellLocked(c, p)
	}
}

// tellLocked hands a connection a parcel, after all that was broadcast before.
func (t *tenant) tellLocked(c *Connection, p *parcel) {
	t.hearLocked(c)
	t.giveLocked(c, p, t.head.Seq)
}

// giveLocked hands a connection a parcel, unless that leaves it out or it does not want it. One
// without a place of its own comes after another.
func (t *tenant) giveLocked(c *Connection, p *parcel, after uint64) {
	if p.excludes(c) {
		return
	}
	if p.entry != nil {
		p.entry.Reached++
	}
	if !c.filter.Wants(p.event.Type) {
		return
	}
	sent := c.sendLocked(&t.gathered, p.frame(c.encoder), p.place, after)
	if sent && p.event.Deadline > 0 {
		c.owe(p.event, p.place)
	}
}

// sendLocked hands c a frame, and says whether it is sent now. One that has no place of its own comes
// after another.
func (c *Connection) sendLocked(d *engine.Batch, frame *engine.Frame, place, after uint64) (sent bool) {
	switch b := c.behind; {
	case c.restsLocked(): // its client reads that from the history once it asks again
	case b == nil && place == 0:
		d.Send(c.Stream, frame)
		return true
	case b == nil && place > c.place:
		c.place = place
		d.Send(c.Stream, frame)
		return true
	case b == nil || place > 0: // it had it, or will
	default:
		b.hold(frame, after)
	}
	return false
}

// broadcast is something for many of a tenant's streams. It is handed to a piece of them at a
// time, with the tenant unlocked between two. Whoever has to do with a connection meanwhile, or
// changes its person's rooms, has it hear first what it lacks (hearLocked): so each is sent
// everything in the tenant's order, as if all had been handed it at once.
type broadcast struct {
	number uint64 // counts the tenant's
	to     audience
	give   func(*Connection) // the tenant is locked
}

// audience is whom a broadcast is for: a room's members, or those whom an entry names.
type audience struct {
	room  event.Room
	entry *history.Entry
}

// everybody is all of a tenant.
var everybody audience

// hasLocked says whether an audience has a profile in it.
func (t *tenant) hasLocked(a audience, p event.Profile) bool {
	switch {
	case a == everybody:
		return true
	case a.entry != nil:
		return a.entry.Names(p)
	}
	return t.rooms.Has(a.room, p)
}

// broadcasts are a tenant's that some streams may not have heard yet.
type broadcasts struct {
	last uint64      // the number of the newest that there was
	list []broadcast // in their order

	// A walk is through the tenant's connections, a room's connected members, or a list of names,
	// from the last to the first. Who comes meanwhile is added behind, or is named before, and has
	// heard all that was before; in the place of who goes comes the last, whom the walk has been
	// at, or comes to still.
	through audience
	left    int    // to how many it comes still; 0: there is no walk
	until   uint64 // after it, those up to this number have been heard
}

// walkPiece is to how many streams something is handed before others have the lock. Tests make it
// small, while what is left of others may still run.
var walkPiece atomic.Int32

func init() { walkPiece.Store(1000) }

// broadcastLocked has give called for each connection of an audience that there is now.
func (t *tenant) broadcastLocked(to audience, give func(*Connection)) {
	if len(t.conns) > 0 {
		t.broadcasts.last++
		t.broadcasts.list = append(t.broadcasts.list, broadcast{number: t.broadcasts.last, to: to, give: give})
	}
}

// hearLocked hands c what it has not heard yet, if it is among the tenant's connections.
func (t *tenant) hearLocked(c *Connection) {
	if c.joined && !c.removed {
		for i := range t.broadcasts.list {
			t.handLocked(c, &t.broadcasts.list[i], everybody)
		}
	}
}

// hearFirstLocked has a profile's connections hear what they lack, before its rooms change.
func (t *tenant) hearFirstLocked(p event.Profile) {
	if len(t.broadcasts.list) > 0 {
		for _, c := range t.connsLocked(p) {
			t.hearLocked(c)
		}
	}
}

// connsLocked are a profile's connections.
func (t *tenant) connsLocked(p event.Profile) []*Connection {
	if m := t.rooms.Person(p); m != nil {
		return m.Conns()
	}
	return nil
}

// handLocked hands c something that it has not heard, if it is for c, who is in an audience.
func (t *tenant) handLocked(c *Connection, b *broadcast, in audience) {
	if c.heard >= b.number {
		return
	}
	c.heard = b.number
	if b.to == in || t.hasLocked(b.to, c.Profile) {
		b.give(c)
	}
}

// walkLocked goes on with a walk, or begins one, and has so many hear what they lack, or fewer
// where that is much.
func (t *tenant) walkLocked(most int) {
	b := &t.broadcasts
	if len(b.list) == 0 {
		return
	}
	if b.left == 0 {
		b.through, b.left, b.until = b.list[0].to, math.MaxInt, b.last
	}
	size, conns := t.throughLocked(b.through)
	b.left = min(b.left, size)
	from := max(0, b.left-max(1, most/len(b.list)))
	for i := range b.list {
		for at := from; at < b.left; at++ {
			for _, c := range conns(at) {
				t.handLocked(c, &b.list[i], b.through)
			}
		}
	}
	if b.left = from; from > 0 {
		return
	}
	b.list = slices.DeleteFunc(b.list, func(heard broadcast) bool {
		return heard.number <= b.until && (b.through == everybody || heard.to == b.through)
	})
	if len(b.list) == 0 {
		b.list = nil
	}
}

// throughLocked is what a walk goes through, and the connections at each place of it.
func (t *tenant) throughLocked(a audience) (size int, conns func(at int) []*Connection) {
	switch {
	case a == everybody:
		return len(t.conns), func(at int) []*Connection { return t.conns[at : at+1] }
	case a.entry != nil:
		named := a.entry.Event.Target.Profiles
		return len(named), func(at int) []*Connection { return t.connsLocked(named[at]) }
	}
	here, _ := t.rooms.Here(a.room, math.MaxUint64)
	return len(here), func(at int) []*Connection { return here[at].Conns() }
}

// walkOnLocked has everybody hear everything, for who cannot let go of the tenant.
func (t *tenant) walkOnLocked() {
	for len(t.broadcasts.list) > 0 {
		t.walkLocked(int(walkPiece.Load()))
	}
}

// flush lets go what has been gathered, and returns when everybody has heard what was broadcast
// before. The tenant is locked; it is unlocked now and then, and in the end.
func (t *tenant) flush() {
	for last := t.broadcasts.last; ; t.mu.Lock() {
		t.walkLocked(int(walkPiece.Load()))
		over := len(t.broadcasts.list) == 0 || t.broadcasts.list[0].number > last
		d := t.gathered
		t.gathered = engine.Batch{}
		t.mu.Unlock()
		d.Flush()
		if over {
			return
		}
	}
}
