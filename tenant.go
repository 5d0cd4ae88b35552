package main

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/sse"
)

// tenant is one tenant's streams and their order. Its methods need its lock,
// which who finds it holds.
type tenant struct {
	name   string  // static
	quotas *Quotas // static

	open     atomic.Int32 // conns' number, as others see it
	accepted atomic.Int64 // events that were published to this hub, since it was found

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
	conns     []*Connection      // in no order; a connection knows its index
	coming    int                // that are admitted, and not yet among conns
	readers   int                // who wait for what other hubs know of it
	watchers  table[ProfileRef, *watched]
	forgotten bool  // no longer among the tenants
	bytes     int64 // of what is kept here, but for rooms and the tables
	charged   int64 // so much of its share of memory is taken
}

type resolved struct {
	roster *Roster
	used   time.Time
	at     uint64 // the tenant's place then
}

// tenantBytes is what is kept of each tenant takes, with its places in tables.
const tenantBytes = 1024

// resolvedBytes is of each answer of a Resolver.
const resolvedBytes = 48 + 2*41

// keptLocked is how many bytes of memory the tenant takes.
func (t *tenant) keptLocked() int64 { return t.bytes + t.rooms.Bytes() + t.watchers.bytes() }

// settleLocked has as much of the tenant's share taken as is kept: of what is there
// already nobody asks whether there is room.
func (t *tenant) settleLocked() {
	if more := t.keptLocked() - t.charged; more != 0 && !t.forgotten {
		t.charged += more
		t.quotas.State.Force(t.name, more)
	}
}

// growLocked is settleLocked where stays that have ended give way if there is no room.
func (t *tenant) growLocked() {
	if more := t.keptLocked() - t.charged; more > 0 && t.takeLocked(more) != nil {
		t.rooms.ForgetPast()
	}
	t.settleLocked()
}

// joinLocked takes what it takes for profiles to join a room: of the tenant's share,
// where stays that have ended give way first.
func (t *tenant) joinLocked(room Room, join []ProfileRef) error {
	n := t.rooms.JoinBytes(room, join)
	err := t.takeLocked(n)
	if err != nil && t.rooms.ForgetPast() {
		t.settleLocked()
		err = t.takeLocked(n)
	}
	return err
}

// takeLocked takes so much of the tenant's share for what is about to be kept, where
// there is room: settleLocked follows.
func (t *tenant) takeLocked(n int64) error {
	if !t.quotas.State.Take(t.name, n) {
		return ErrTenantShare
	}
	t.charged += n
	return nil
}

func (t *tenant) removeLocked(c *Connection) {
	c.removed = true
	t.watchLocked(c, nil)
	end := len(t.conns) - 1
	t.conns[c.index] = t.conns[end]
	t.conns[c.index].index = c.index
	t.conns[end] = nil
	t.conns = t.conns[:end]
	t.open.Store(int32(end))

	t.rooms.Disconnect(c.Profile, c)
	t.dropLocked(c)
}

// keepLocked takes what a connection weighs, or is to weigh from now on, of its tenant's
// and its person's shares, with a watch list; settleLocked follows when that is there.
func (t *tenant) keepLocked(c *Connection, w weight, watch []ProfileRef) error {
	own := w.own - c.weight.own
	if err := t.takeLocked(own + t.unwatchedLocked(watch)); err != nil {
		return err
	}
	if !t.quotas.Person.Take(c.who(), w.all()-c.weight.all()) {
		t.settleLocked()
		return ErrPersonShare
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

func (t *tenant) watchLocked(c *Connection, watch []ProfileRef) {
	for _, w := range c.watch {
		last := w.by[len(w.by)-1]
		w.by[w.index] = last
		for i := range last.watch {
			if last.watch[i].watched == w.watched {
				last.watch[i].index = w.index
			}
		}
		if pull(&w.by, &t.bytes); len(w.by) == 0 {
			t.watchers.delete(w.ref)
			t.bytes -= watchedBytes + w.ref.bytes()
		}
	}
	c.watch = nil
	if watch != nil {
		c.watch = make([]watching, 0, len(watch))
	}
	for _, p := range watch {
		w := t.watchers.of[p]
		if w == nil {
			w = &watched{ref: p}
			t.watchers.set(p, w)
			t.bytes += watchedBytes + p.bytes()
		}
		c.watch = append(c.watch, watching{w, int32(len(w.by))})
		push(&w.by, c, &t.bytes)
	}
}

// unwatchedLocked is what a watch list takes that nobody has part in yet.
func (t *tenant) unwatchedLocked(watch []ProfileRef) (n int64) {
	for _, p := range watch {
		if t.watchers.of[p] == nil {
			n += watchedBytes + watchedPlace + p.bytes()
		}
	}
	return n
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
		t.bytes += resolvedBytes + textBytes(room.ID)
	}
	if r.roster != roster && (r.roster == nil || roster.asked >= r.roster.asked) {
		r.roster = roster
		t.setMembersLocked(room, roster.Members)
	}
	r.used, r.at = now, t.head.Seq
	t.settleLocked()
}

// unresolveLocked forgets a Resolver's answer.
func (t *tenant) unresolveLocked(room Room) {
	t.setMembersLocked(room, nil)
	delete(t.resolved, room)
	t.bytes -= resolvedBytes + textBytes(room.ID)
	t.rooms.Unsure(t.head.Seq)
}

func (t *tenant) setMembersLocked(room Room, members []ProfileRef) {
	join, leave := t.rooms.Differ(room, members)
	t.changeMembersLocked(room, join, leave)
}

// changeMembersLocked has profiles join and leave a room, as of now.
func (t *tenant) changeMembersLocked(room Room, join, leave []ProfileRef) {
	for _, p := range join {
		t.rooms.Add(room, p, t.head.Seq)
	}
	for _, p := range leave {
		t.rooms.Remove(room, p, t.head.Seq)
	}
	t.growLocked()
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
	return Cursor{t.head.Epoch, max(t.head.Seq, c.place)}.String() // another hub may have told it of more
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
			giveAll(t.rooms.Person(ref))
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
		place := p.place
		if place == 0 { // it is for whoever is a member now, however far behind the history is
			place = math.MaxUint64
		}
		here, size := t.rooms.Here(room, place)
		p.members = int32(size)
		for _, p := range here {
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
		for _, c := range t.watching(n.About) {
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

// watching are the connections that watch a profile.
func (t *tenant) watching(p ProfileRef) []*Connection {
	if w := t.watchers.of[p]; w != nil {
		return w.by
	}
	return nil
}

func (t *tenant) notifySharedLocked(d *sse.Delivery, notices []Notice, parcels []*parcel, digest bool) {
	told := map[*person]bool{}
	visited := map[*circle]bool{}
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
		tell(t.rooms.Person(n.About))
		for _, c := range t.rooms.circlesOf(n.About) {
			if !visited[c] {
				visited[c] = true
				for _, p := range c.members[:c.here] {
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
