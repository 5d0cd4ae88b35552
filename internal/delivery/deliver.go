package delivery

import (
	"math"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
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
	c.sendLocked(&t.gathered, p.frame(c.encoder), p.place, after)
	if p.event.Deadline > 0 && c.place == p.place {
		c.owe(p.event, p.place)
	}
}

// sendLocked hands c a frame. One that has no place of its own comes after another.
func (c *Connection) sendLocked(d *engine.Batch, frame *engine.Frame, place, after uint64) {
	switch b := c.behind; {
	case c.restsLocked(): // its client reads that from the history once it asks again
	case b == nil && place == 0:
		d.Send(c.Stream, frame)
	case b == nil && place > c.place:
		c.place = place
		d.Send(c.Stream, frame)
	case b == nil || place > 0: // it had it, or will
	default:
		b.hold(frame, after)
	}
}
