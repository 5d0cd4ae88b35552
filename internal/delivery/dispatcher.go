package delivery

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
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

// Notify tells a tenant's streams of changes: each stream with a watch list of
// those on its list, and every other stream of all of them in one write, or of
// the digest alone when there is one. With shared set, only streams of profiles
// that have a room in common with who changed, or are who changed, are told.
func (d *Dispatcher) Notify(name string, notices []Notice, digest *event.Event, shared bool) {
	w := wordOf(notices, digest)
	if t := d.tenants.find(name); t != nil {
		t.notifyLocked(w, shared)
		t.flush()
	}
}

// Notice is an ephemeral event of the hub's own about one profile.
type Notice struct {
	About event.Profile
	Event *event.Event
}

// word is notices on their way to streams.
type word struct {
	notices []Notice
	parcels []*parcel // of each; nil: nobody was told it yet
	digest  *parcel   // nil: everybody is told all
}

// wordOf makes what everybody is told, before the tenant is locked. Of a digest only who watches is told
// more, of few.
func wordOf(notices []Notice, digest *event.Event) *word {
	w := &word{notices: notices, parcels: make([]*parcel, len(notices))}
	if digest != nil {
		w.digest = pack(digest)
		return w
	}
	for i := range notices {
		w.of(i)
	}
	return w
}

// of is a notice, made once somebody is told it.
func (w *word) of(i int) *parcel {
	if w.parcels[i] == nil {
		w.parcels[i] = pack(w.notices[i].Event)
	}
	return w.parcels[i]
}

// notifyLocked is Notify for the streams of one tenant. Others have it now and then, as who changed
// may be many, and so may those be who are to know of each.
func (t *tenant) notifyLocked(w *word, shared bool) {
	t.readers++ // it is not forgotten meanwhile
	defer func() { t.readers-- }()
	told := 0
	beside := newBeside(w)
	for i := range w.notices {
		told += t.notifyWatchersLocked(w, i, shared)
		if shared {
			told += t.notifySharedLocked(beside, i)
		}
		if told >= int(walkPiece.Load()) {
			told = 0
			t.letOthersIn()
		}
	}
	if shared {
		return
	}
	whole, after := &bundle{parcels: w.parcels}, t.head.Seq
	if w.digest != nil {
		whole.parcels = []*parcel{w.digest}
	}
	t.broadcastLocked(everybody, func(c *Connection) {
		if c.watch == nil {
			t.giveBundleLocked(c, whole, after)
		}
	})
}

// letOthersIn lets go what has been gathered, while others have the tenant.
func (t *tenant) letOthersIn() {
	d := t.gathered
	t.gathered = engine.Batch{}
	t.mu.Unlock()
	d.Flush()
	t.mu.Lock()
}

// notifyWatchersLocked tells those of one notice who watch the person, and says how many they are.
func (t *tenant) notifyWatchersLocked(w *word, i int, shared bool) (told int) {
	about := w.notices[i].About
	for _, c := range t.watching(about) {
		if !shared || c.Profile == about || t.rooms.Share(c.Profile, about) {
			t.tellLocked(c, w.of(i))
			told++
		}
	}
	return told
}

// beside are those who have been told of a word as who has a room in common with the person: of each
// notice anew, of a digest once.
type beside struct {
	word    *word
	told    map[*member]bool
	visited room.Visited[*Connection]
}

func newBeside(w *word) *beside {
	return &beside{word: w, told: map[*member]bool{}, visited: room.Visited[*Connection]{}}
}

// notifySharedLocked tells those of one notice, or of the digest, who have a room in common with the
// person and no watch list, and says how many it looked at.
func (t *tenant) notifySharedLocked(b *beside, i int) (looked int) {
	parcel := b.word.digest
	if parcel == nil {
		parcel = b.word.of(i)
		clear(b.told)
		clear(b.visited)
	}
	tell := func(p *member) {
		looked++
		if p == nil || len(p.Conns()) == 0 || b.told[p] {
			return
		}
		b.told[p] = true
		for _, c := range p.Conns() {
			if c.watch == nil {
				t.tellLocked(c, parcel)
			}
		}
	}
	about := b.word.notices[i].About
	tell(t.rooms.Person(about))
	t.rooms.EachBeside(about, b.visited, tell)
	return looked
}

func (t *tenant) giveBundleLocked(c *Connection, b *bundle, after uint64) {
	if c.filter != nil {
		for _, p := range b.parcels {
			t.giveLocked(c, p, after)
		}
		return
	}
	c.sendLocked(&t.gathered, b.frame(c.encoder), 0, after)
}
