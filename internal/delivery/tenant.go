package delivery

import (
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/sized"
)

// memberships are who belongs where in a tenant, and the connections of each.
type (
	memberships = room.Memberships[*Connection]
	member      = room.Person[*Connection]
)

// tenant is one tenant's streams and their order. Its methods need its lock,
// which who finds it holds.
type tenant struct {
	name   string           // static
	quotas *allowance.Pools // static
	ledger *ledger          // static

	open     atomic.Int32 // conns' number, as others see it
	accepted atomic.Int64 // events that were published to this hub, since it was found

	mu sync.Mutex
	// Guarded by mu.
	head       history.Cursor // the last place that was handed to streams
	attached   bool           // head is known, and the log tells of all that follows
	enrolled   bool           // who belongs to its rooms is known, of a cluster that keeps it, and what changes
	shared     bool           // who is connected to other hubs is known, and what changes
	gathered   engine.Batch   // what is to be flushed
	broadcasts broadcasts
	mark       frames // tells the place markAt
	markAt     history.Cursor
	rooms      memberships
	resolved   map[event.Room]*resolved // what rooms holds of a Resolver's answers
	conns      []*Connection            // in no order; a connection knows its index
	order      order                    // of conns
	coming     int                      // that are admitted, and not yet among conns
	readers    int                      // who wait for what other hubs know of it
	watchers   sized.Table[event.Profile, *watched]
	usedAt     time.Time // when it was last asked for
	forgotten  bool      // no longer among the tenants
	marked     bool      // in the ledger, for Prune
	bytes      int64     // of what is kept here, but for rooms and the tables
	charged    int64     // so much of its share of memory is taken
}

// tenantBytes is what is kept of each tenant takes, with its places in tables.
const tenantBytes = 1024

func newTenant(name string, quotas *allowance.Pools, ledger *ledger, moved func(tenant string, room event.Room, p event.Profile)) *tenant {
	t := &tenant{name: name, quotas: quotas, ledger: ledger, resolved: map[event.Room]*resolved{}, bytes: tenantBytes}
	t.markLocked()
	if moved != nil {
		t.rooms.Moved = func(room event.Room, p event.Profile) { moved(name, room, p) }
	}
	return t
}

// keptLocked is how many bytes of memory the tenant takes.
func (t *tenant) keptLocked() int64 { return t.bytes + t.rooms.Bytes() + t.watchers.Bytes() }

// settleLocked counts against the tenant's share exactly what the tenant keeps. It never
// fails, since what it counts is in memory already.
func (t *tenant) settleLocked() {
	if more := t.keptLocked() - t.charged; more != 0 && !t.forgotten {
		t.charged += more
		t.quotas.State.Force(t.name, more)
	}
	t.markLocked()
}

// markLocked has Prune look at the tenant if there may be something to forget, or nobody is here.
func (t *tenant) markLocked() {
	if !t.marked && !t.forgotten && (t.remembersLocked() || len(t.conns)+t.coming == 0) {
		t.marked = true
		t.ledger.mark(t.name)
	}
}

// unmarkLocked has it look at the tenant no longer.
func (t *tenant) unmarkLocked() {
	t.marked = false
	t.ledger.unmark(t.name)
}

// growLocked is settleLocked, but forgets stays that have ended if the share has no room.
func (t *tenant) growLocked() {
	if more := t.keptLocked() - t.charged; more > 0 && t.takeLocked(more) != nil {
		t.rooms.ForgetPast()
	}
	t.settleLocked()
}

// joinLocked takes from the tenant's share the memory that profiles need to join a room. If
// there is too little it first forgets stays that have ended.
func (t *tenant) joinLocked(room event.Room, join []event.Profile) error {
	n := t.rooms.JoinBytes(room, join)
	err := t.takeLocked(n)
	if err != nil && t.rooms.ForgetPast() {
		t.settleLocked()
		err = t.takeLocked(n)
	}
	return err
}

// takeLocked takes n bytes of the tenant's share for something that is about to be kept, or
// fails if the share has no room. settleLocked follows once it is kept, or is not.
func (t *tenant) takeLocked(n int64) error {
	if !t.quotas.State.Take(t.name, n) {
		return allowance.ErrTenant
	}
	t.charged += n
	return nil
}

// addLocked has c, which was admitted, among the tenant's connections.
func (t *tenant) addLocked(c *Connection, watch []event.Profile) {
	t.coming--
	c.joined, c.heard = true, t.broadcasts.last
	c.index = len(t.conns)
	t.conns = append(t.conns, c)
	t.order.add(c)
	t.openedLocked()
	t.rooms.Connect(c.Profile, c)
	t.watchLocked(c, watch)
	t.settleLocked()
}

// openedLocked tells others how many connections there are now.
func (t *tenant) openedLocked() {
	t.open.Store(int32(len(t.conns)))
	t.ledger.has(t, len(t.conns))
}

// removeLocked takes c out of them again.
func (t *tenant) removeLocked(c *Connection) {
	c.removed = true
	t.watchLocked(c, nil)
	end := len(t.conns) - 1
	t.conns[c.index] = t.conns[end]
	t.conns[c.index].index = c.index
	t.conns[end] = nil
	t.conns = t.conns[:end]
	t.order.remove(c)
	t.openedLocked()

	t.rooms.Disconnect(c.Profile, c)
	t.dropLocked(c)
}

// beatLocked sends what is due on a stream about once a heartbeat: the place of one that
// is live, if its client does not know it, or else the beat, if any. Without the
// place a quiet client would come back from far behind.
func (t *tenant) beatLocked(d *engine.Batch, c *Connection, beat *engine.Frame) {
	t.hearLocked(c)
	switch {
	case c.removed || c.sentAway:
	case c.behind == nil && c.place < t.head.Seq:
		if t.markAt != t.head {
			t.mark, t.markAt = frames{}, t.head
		}
		mark := t.mark.of(c.encoder)
		if *mark == nil {
			*mark = c.encoder.place(t.head)
		}
		c.place = t.head.Seq
		d.Send(c.Stream, *mark)
	case beat != nil:
		d.Send(c.Stream, beat)
	}
}

// knownLocked is the place that c's client knows once it has had all that it is owed;
// empty before it has caught up.
func (t *tenant) knownLocked(c *Connection) string {
	if !c.joined || c.behind != nil {
		return ""
	}
	return history.Cursor{Epoch: t.head.Epoch, Seq: t.sentLocked(c)}.String()
}

// sentLocked is the place up to which c was sent all that it wants.
func (t *tenant) sentLocked(c *Connection) uint64 {
	if c.behind != nil || c.restsLocked() {
		return c.place
	}
	return max(t.head.Seq, c.place) // another hub may have told it of more
}

// forget drops a tenant that has no stream, and no membership but what all hubs of
// the cluster keep. Who waits for a tenant that is busy holds nothing that others need.
func (t *Tenants) forget(name string) { t.forgetAt(name, time.Now()) }

func (t *Tenants) forgetAt(name string, now time.Time) {
	tenant := t.find(name)
	if tenant == nil {
		return
	}
	needed := t.needsLocked(tenant)
	tenant.mu.Unlock()
	if needed {
		return
	}
	if _, taken := t.gates.take(name); !taken {
		return // somebody begins it, or forgets it already
	}
	defer t.gates.end(name) // when all is undone, so that nobody begins anew before
	if tenant = t.find(name); tenant == nil {
		return
	}
	if t.needsLocked(tenant) {
		tenant.mu.Unlock()
		return
	}
	attached, shared, enrolled := tenant.attached, tenant.shared, tenant.enrolled
	if attached {
		tenant.usedAt = now // until now somebody was here
	}
	if t.staysLocked(tenant, now) {
		enrolled = false // it remains so
		tenant.attached, tenant.shared, tenant.head = false, false, history.Cursor{}
	} else {
		t.dropLocked(tenant)
	}
	tenant.flush() // a stream that was closed meanwhile may have been gathered before
	if attached {
		t.log.Detach(name)
	}
	if enrolled {
		t.rooms.Detach(name)
	}
	if shared {
		t.sharing.Unshare(name)
	}
}

// dropLocked has a tenant be no longer among the tenants.
func (t *Tenants) dropLocked(tenant *tenant) {
	tenant.forgotten = true
	t.quotas.State.Give(tenant.name, tenant.charged)
	tenant.unmarkLocked() // before there can be another of its name
	t.mu.Lock()
	delete(t.byName, tenant.name)
	t.mu.Unlock()
}

// restTime is how long the rooms of a tenant that nobody needs stay known, so that they need not
// be read again when somebody is back soon, or publishes now and then.
const restTime = 10 * time.Minute

// staysLocked says that a tenant's rooms stay known though nobody needs them now: they were used
// lately, and at least half of the memory for such is free.
func (t *Tenants) staysLocked(tenant *tenant, now time.Time) bool {
	all, taken := t.quotas.State.All(), t.quotas.State.Total()
	return tenant.enrolled && !tenant.rooms.Empty() && now.Sub(tenant.usedAt) < restTime &&
		(all == 0 || taken <= all/2)
}

// Prune forgets what nobody needs of who belonged where, and the tenants that nobody needs.
// oldest is the place that a tenant's history reaches back to; where it fails nothing of
// that tenant is forgotten.
func (t *Tenants) Prune(now time.Time, oldest func(name string) (uint64, error)) {
	for _, name := range t.ledger.marked() {
		t.prune(name, now, oldest)
		t.forgetAt(name, now)
	}
}

// prune is Prune of one tenant. Where it finds nothing to forget, nor later without a change, it
// has no need to look again.
func (t *Tenants) prune(name string, now time.Time, oldest func(name string) (uint64, error)) {
	tenant := t.find(name)
	if tenant == nil {
		return
	}
	remembers := tenant.remembersLocked()
	if !remembers && t.needsLocked(tenant) {
		tenant.unmarkLocked()
	}
	tenant.mu.Unlock()
	if !remembers {
		return
	}
	place, err := oldest(name)
	if tenant = t.find(name); tenant == nil {
		return
	}
	defer tenant.mu.Unlock()
	if err == nil {
		tenant.pruneLocked(now, place)
	}
	tenant.settleLocked()
}

// remembersLocked says that there is something that Prune may forget.
func (t *tenant) remembersLocked() bool { return t.rooms.Remembers() || len(t.resolved) > 0 }

// pruneLocked forgets what is of before a place. It unlocks the tenant now and then, so that
// nobody waits for all of it; the tenant may be forgotten meanwhile.
func (t *tenant) pruneLocked(now time.Time, place uint64) {
	for in, r := range t.resolved {
		// While the history has events for the room, its members must be known: somebody
		// who resumes is to get those events.
		if now.Sub(r.used) > room.ResolvedTTL && r.at < place {
			if !t.unresolveLocked(in, t.restLocked) {
				return
			}
		}
	}
	t.rooms.Prune(place, t.restLocked)
}

// restLocked lets others have the tenant, and says whether it is still there.
func (t *tenant) restLocked() bool {
	t.mu.Unlock()
	t.mu.Lock()
	return !t.forgotten
}
