package delivery

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// Dispatcher hands to streams what the log tells of, in its order, and what the hub
// itself has to say.
type Dispatcher struct {
	// Static.
	tenants *Tenants
	members *Members
	streams *Streams
	count   *Counts
	logger  *slog.Logger
}

// Deliver implements Sink.
func (d *Dispatcher) Deliver(tenant string, entries []*history.Entry) {
	d.deliver(tenant, entries, true)
}

// deliver hands entries to their streams; what was published is timed.
func (d *Dispatcher) deliver(tenant string, entries []*history.Entry, published bool) {
	excluded := excludedBy(entries) // before the tenant is locked: they may be many
	t := d.tenants.find(tenant)
	if t == nil {
		return
	}
	var asked []roomOf
	for i, e := range entries {
		p := parcelOf(e)
		if excluded != nil {
			p.excluded = excluded[i]
		}
		if !d.dispatchLocked(t, &p, published) {
			continue
		}
		e.Members = p.members
		if r, ok := e.Event.Target.Room(); ok && e.Event.Deadline > 0 && e.Here {
			asked = append(asked, roomOf{entry: e, members: t.rooms.Then(r, p.place)})
		}
	}
	t.mu.Unlock()
	for _, r := range asked {
		r.entry.Recipients = withoutExcluded(r.entry.Event, profilesOf(r.members))
	}
}

// roomOf is an entry that the members of a room are to acknowledge.
type roomOf struct {
	entry   *history.Entry
	members []*member
}

// dispatchLocked hands a parcel to its streams, unless they had it, or it is not known whom it is for.
func (d *Dispatcher) dispatchLocked(t *tenant, p *parcel, published bool) (handed bool) {
	switch {
	case p.entry.Here:
		t.accepted.Add(1)
		p.since = p.event.Timestamp
	case published: // another hub's clock may be wrong
		p.since = time.Now()
	}
	if p.place > 0 && p.place <= t.head.Seq && t.attached {
		return false // it was told when it was attached
	}
	if p.place > 0 {
		t.head = p.entry.Cursor
		if r, ok := p.event.Target.Room(); ok && !d.members.OwnsMembership() && !t.knowsLocked(r) {
			d.unknownLocked(t) // each may be one of those whom it was for
			return false
		}
	}
	if p.event.Target.Kind == event.KindConnection {
		p.only = d.streams.Connection(p.event.Target.ConnectionID)
	}
	t.deliverLocked(p)
	return true
}

// unknownLocked sends hub.gap to all streams of a tenant. An event was published to a room
// whose members this hub has never been told, so each stream may be one that it was for.
func (d *Dispatcher) unknownLocked(t *tenant) {
	if len(t.conns) > 0 {
		d.count.gaps.Add(GapMembership, len(t.conns))
	}
	var gap frames
	head := t.head
	t.broadcastLocked(everybody, func(c *Connection) {
		frame := gap.of(c.encoder)
		if *frame == nil {
			*frame = c.encoder.gap(GapMembership, head)
		}
		c.skipLocked(head.Seq-1, head.Seq)
		c.sendLocked(&t.gathered, *frame, head.Seq, head.Seq)
	})
}

// Flush implements Sink.
func (d *Dispatcher) Flush(tenant string) {
	if t := d.tenants.find(tenant); t != nil {
		t.flush()
	}
}

// Prepare implements Sink: the rooms of what another hub has published are settled
// here as well.
func (d *Dispatcher) Prepare(tenant string, entries []*history.Entry) {
	events := make([]*event.Event, len(entries))
	for i, e := range entries {
		events[i] = e.Event
	}
	d.members.ResolveRooms(context.Background(), true, events...) // logged; else the last answer holds
}

// Quiet implements Sink: a heartbeat tells the place.
func (d *Dispatcher) Quiet(tenant string, place history.Cursor) {
	if t := d.tenants.find(tenant); t != nil {
		if t.attached && place.Seq > t.head.Seq {
			t.head = place
		}
		t.mu.Unlock()
	}
}

// Lost implements Sink: streams end, and resume where they can.
func (d *Dispatcher) Lost(tenant string, place history.Cursor) {
	t := d.tenants.find(tenant)
	if t == nil {
		return
	}
	t.walkOnLocked()
	t.rooms.Restart(place.Epoch)
	t.head = place
	open := slices.Clone(t.conns)
	for _, c := range open {
		c.sentAway = true                                    // they will be back
		c.Stream.Close(c.encoder.closing(CloseDrain, 0, "")) // before anything that follows
	}
	t.mu.Unlock()
	d.count.gaps.Add(GapLost, len(open))
	if len(open) > 0 {
		d.logger.Warn("the history has a gap: streams were closed, and their clients resume", "reason", string(CloseDrain), "tenant", tenant, "streams", len(open))
	}
}

// Say delivers an ephemeral event of the hub's own making to its own streams.
func (d *Dispatcher) Say(ctx context.Context, e *event.Event) error {
	if _, err := d.members.ResolveRooms(ctx, false, e); err != nil {
		return err
	}
	if err := d.tenants.sure(ctx); err != nil {
		return err
	}
	d.deliver(e.TenantID, []*history.Entry{{Event: e, Envelope: e.Seal()}}, false)
	d.Flush(e.TenantID)
	return nil
}
