package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"realtimehub/internal/sse"
)

// dispatcher hands to streams what the log tells of, in its order, and what the hub
// itself has to say.
type dispatcher struct {
	// Static.
	tenants *tenants
	members *members
	streams *streams
	count   *hubCounts
	logger  *slog.Logger
}

// Deliver implements Sink.
func (x *dispatcher) Deliver(tenant string, entries []*Entry) { x.deliver(tenant, entries, true) }

// deliver hands entries to their streams; what was published is timed.
func (x *dispatcher) deliver(tenant string, entries []*Entry, published bool) {
	t := x.tenants.find(tenant)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	for _, e := range entries {
		p := parcelOf(e)
		switch {
		case e.Here:
			t.accepted.Add(1)
			p.since = e.Event.Timestamp
		case published: // another hub's clock may be wrong
			p.since = time.Now()
		}
		if p.place > 0 && p.place <= t.head.Seq && t.attached {
			continue // it was told when it was attached
		}
		if p.place > 0 {
			t.head = e.Cursor
			if room, ok := e.Event.Target.Room(); ok && t.resolved[room] == nil && !x.members.ownsMembership() {
				x.unknownLocked(t) // each may be one of those whom it was for
				continue
			}
		}
		if e.Event.Target.Kind == KindConnection {
			p.only = x.streams.Connection(e.Event.Target.ConnectionID)
		}
		e.Reached += t.deliverLocked(&t.gathered, &p)
		e.Members = p.members
	}
}

// unknownLocked tells a tenant's streams that nobody has said here who belongs to the room in
// which something was said last.
func (x *dispatcher) unknownLocked(t *tenant) {
	if len(t.conns) == 0 {
		return
	}
	frame := gapFrame(x.count, ErrRoomUnknown, t.head)
	x.count.gaps.add(GapMembership, len(t.conns)-1)
	for _, c := range t.conns {
		t.sendLocked(&t.gathered, c, frame, t.head.Seq)
	}
}

// Flush implements Sink.
func (x *dispatcher) Flush(tenant string) {
	if t := x.tenants.find(tenant); t != nil {
		t.flush()
	}
}

// Prepare implements Sink: the rooms of what another hub has published are settled
// here as well.
func (x *dispatcher) Prepare(tenant string, entries []*Entry) {
	events := make([]*Event, len(entries))
	for i, e := range entries {
		events[i] = e.Event
	}
	x.members.settle(context.Background(), true, events...) // logged; else the last answer holds
}

// Quiet implements Sink: a heartbeat tells the place.
func (x *dispatcher) Quiet(tenant string, place Cursor) {
	if t := x.tenants.find(tenant); t != nil {
		if t.attached && place.Seq > t.head.Seq {
			t.head = place
		}
		t.mu.Unlock()
	}
}

// Lost implements Sink: streams end, and resume where they can.
func (x *dispatcher) Lost(tenant string, place Cursor) {
	t := x.tenants.find(tenant)
	if t == nil {
		return
	}
	t.rooms.Restart(place.Epoch)
	t.head = place
	open := slices.Clone(t.conns)
	for _, c := range open {
		c.drained = true                              // they will be back
		c.Stream.Close(x.streams.Closing(CloseDrain)) // before anything that follows
	}
	t.mu.Unlock()
	x.count.gaps.add(GapLost, len(open))
	if len(open) > 0 {
		x.logger.Warn("streams sent back: the history has a gap", "reason", string(CloseDrain), "tenant", tenant, "streams", len(open))
	}
}

// Say delivers an ephemeral event of the hub's own making to its own streams.
func (x *dispatcher) Say(ctx context.Context, e *Event) error {
	if _, err := x.members.settle(ctx, false, e); err != nil {
		return err
	}
	if err := x.tenants.sure(ctx); err != nil {
		return err
	}
	x.deliver(e.TenantID, []*Entry{{Event: e, Envelope: e.Seal()}}, false)
	x.Flush(e.TenantID)
	return nil
}

// Notify tells a tenant's streams of changes: each stream with a watch list of
// those on its list, and every other stream of all of them in one write, or of
// the digest alone when there is one. With shared set, only streams of profiles
// that have a room in common with who changed, or are who changed, are told.
func (x *dispatcher) Notify(name string, notices []Notice, digest *Event, shared bool) {
	t := x.tenants.find(name)
	if t == nil {
		return
	}
	var d sse.Delivery
	t.notifyLocked(&d, notices, digest, shared)
	t.mu.Unlock()
	d.Flush()
}
