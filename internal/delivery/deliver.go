package delivery

import (
	"math"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
)

// deliverLocked hands a parcel to its target's connections and counts them, and the
// members of its room.
func (t *tenant) deliverLocked(p *parcel) (n int32) {
	target := &p.event.Target
	giveAll := func(m *member) {
		if m == nil {
			return
		}
		for _, c := range m.Conns() {
			if !p.excludes(c) {
				n++
				t.tellLocked(c, p)
			}
		}
	}
	switch target.Kind {
	case event.KindProfile, event.KindProfiles:
		for _, ref := range target.Profiles {
			giveAll(t.rooms.Person(ref))
		}
	case event.KindTenant:
		own, after := *p, t.head.Seq // they outlive the call
		t.broadcastLocked(func(c *Connection) {
			if !own.excludes(c) {
				t.giveLocked(c, &own, after)
			}
		})
		n = int32(len(t.conns) - t.excludedLocked(p))
	case event.KindConnection:
		if c := p.only; c != nil && c.Tenant == t.name && !c.removed && !p.excludes(c) {
			n++
			t.tellLocked(c, p)
		}
	default:
		room, _ := target.Room()
		place := p.place
		if place == 0 { // it is for whoever is a member now, however far behind the history is
			place = math.MaxUint64
		}
		here, size := t.rooms.Here(room, place)
		p.members = int32(size)
		for _, m := range here {
			giveAll(m)
		}
	}
	return n
}

// tellLocked hands a connection a parcel that is for it, after all that was broadcast before.
func (t *tenant) tellLocked(c *Connection, p *parcel) {
	t.hearLocked(c)
	t.giveLocked(c, p, t.head.Seq)
}

// giveLocked hands a connection a parcel that is for it, if it wants that. One without a place of
// its own comes after another.
func (t *tenant) giveLocked(c *Connection, p *parcel, after uint64) {
	if !c.filter.Wants(p.event.Type) {
		return
	}
	c.sendLocked(&t.gathered, p.frame(c.encoder), p.place, after)
	if p.event.Deadline > 0 && c.place == p.place {
		c.owe(p.event, p.place)
	}
}

// excludedLocked is how many of the tenant's connections a parcel is not for, though it is for
// all others.
func (t *tenant) excludedLocked(p *parcel) (n int) {
	for ref := range p.excluded.Profiles() {
		if m := t.rooms.Person(ref); m != nil {
			n += len(m.Conns())
		}
	}
	for id := range p.excluded.Connections() {
		if c := t.order.find(id); c != nil && !p.excluded.HasProfile(c.Profile) {
			n++
		}
	}
	return n
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
