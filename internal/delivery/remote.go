package delivery

import (
	"context"
	"math"
	"slices"
	"time"

	"realtimehub/internal/event"
)

// roomsTime is how long an event waits until this hub knows of its tenant's rooms.
const roomsTime = 300 * time.Millisecond

// EnsureRooms loads the membership of the rooms that events are for. What this hub knows of it
// then goes with the events to hubs that know less, which otherwise have to ask.
func (t *Tenants) EnsureRooms(ctx context.Context, events []*event.Event) {
	if t.rooms == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, roomsTime)
	defer cancel()
	known := ""
	for _, e := range events {
		if _, ok := e.Target.Room(); ok && e.TenantID != known {
			if tenant, err := t.roomsLocked(ctx, e.TenantID); err == nil {
				tenant.mu.Unlock()
			}
			known = e.TenantID
		}
	}
}

// Remote is what an event's target has on other hubs.
type Remote struct {
	Connections int // as far as is known
	Members     int // of its room, on all hubs; -1: not known
}

// CountRemote is that of events. A hub that has no stream of a tenant does not keep who is
// connected elsewhere: it asks, and the answer is waited for when the result is called for.
func (t *Tenants) CountRemote(ctx context.Context, events []*event.Event) (result func() []Remote) {
	remotes := make([]Remote, len(events))
	if !t.InCluster() {
		return func() []Remote { return remotes }
	}
	var asked []*event.Event
	var places []int // of those in events
	for i, e := range events {
		var known bool
		if remotes[i], known = t.countKnown(e); !known {
			asked, places = append(asked, e), append(places, i)
		}
	}
	if len(asked) == 0 || t.sharing == nil {
		return func() []Remote { return remotes }
	}
	counts := t.sharing.Ask(asked)
	return func() []Remote {
		for i, n := range counts(ctx) {
			if n == CannotCount {
				n = t.countAnyway(ctx, asked[i])
			}
			remotes[places[i]].Connections = n
		}
		return remotes
	}
}

// CannotCount stands for a number that a hub of the version before cannot tell.
const CannotCount = -1

// countAnyway counts what an event's target has on other hubs once this hub knows all of theirs.
func (t *Tenants) countAnyway(ctx context.Context, e *event.Event) int {
	tenant, err := t.ensureLocked(ctx, e.TenantID)
	if err != nil {
		return 0
	}
	defer tenant.mu.Unlock()
	in, _ := e.Target.Room()
	return t.sharing.Count(e, tenant.rooms.Of(in))
}

// countKnown is what is known here of an event's target; known says whether that is also how
// many connections other hubs hold.
func (t *Tenants) countKnown(e *event.Event) (r Remote, known bool) {
	r.Members = -1
	if !t.SureNow() {
		return r, true // this is only told, and not waited for
	}
	tenant := (*tenant)(nil)
	in, ofRoom := e.Target.Room()
	if ofRoom { // which EnsureRooms has waited for as long as an event waits
		tenant, _ = t.roomsLocked(over, e.TenantID)
	} else {
		tenant = t.find(e.TenantID)
	}
	if tenant == nil {
		return r, false
	}
	defer tenant.mu.Unlock()
	members := tenant.rooms.Of(in)
	r.Members = members.Len()
	if tenant.shared {
		r.Connections = t.sharing.Count(e, members)
	}
	return r, tenant.shared
}

// CountHere is how many of this hub's connections an event's target resolves to. Of a whole tenant, or of a
// room, it looks at whom the event leaves out, and not at everybody else. Of a long list of profiles the
// tenant is let go of after each piece.
func (s *Streams) CountHere(e *event.Event) (n int) {
	excluded := event.ExcludedBy(&e.Target)
	for some := range slices.Chunk(e.Target.Profiles, int(walkPiece.Load())) {
		if t := s.tenants.find(e.TenantID); t != nil {
			for _, ref := range some {
				for _, c := range t.connsLocked(ref) {
					if !excluded.Has(c.Profile, c.ID) {
						n++
					}
				}
			}
			t.mu.Unlock()
		}
	}
	room, isRoom := e.Target.Room()
	if !isRoom && e.Target.Kind != event.KindTenant {
		return n
	}
	t := s.tenants.find(e.TenantID)
	if t == nil {
		return n
	}
	defer t.mu.Unlock()
	if !isRoom {
		return len(t.conns) - s.excludedLocked(t, &excluded, func(event.Profile) bool { return true })
	}
	here, _ := t.rooms.Here(room, math.MaxUint64)
	for _, who := range here {
		n += len(who.Conns())
	}
	return n - s.excludedLocked(t, &excluded, func(p event.Profile) bool { return t.rooms.Has(room, p) })
}

// excludedLocked is how many connections of some of a tenant's people are left out.
func (s *Streams) excludedLocked(t *tenant, excluded *event.Excluded, in func(event.Profile) bool) (n int) {
	for ref := range excluded.Profiles() {
		if who := t.rooms.Person(ref); who != nil && in(ref) {
			n += len(who.Conns())
		}
	}
	for id := range excluded.Connections() {
		c := s.ByID(id)
		there := c != nil && c.Tenant == t.name && c.joined && !c.removed
		if there && in(c.Profile) && !excluded.HasAll(c.Profile) {
			n++
		}
	}
	return n
}

// elsewhere says that a person has connections to other hubs, as far as this one has been told.
func (t *Tenants) elsewhere(c *Connection) bool {
	return t.sharing != nil && t.sharing.Count(&event.Event{TenantID: c.Tenant, Target: event.ToProfile(c.Profile)}, nil) > 0
}
