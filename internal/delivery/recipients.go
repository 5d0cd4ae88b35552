package delivery

import (
	"context"
	"math"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// withoutExcluded takes those out of a list whom an event's target excludes.
func withoutExcluded(e *event.Event, list []event.Profile) []event.Profile {
	excluded := event.ExcludedBy(&e.Target)
	return slices.DeleteFunc(list, excluded.HasAll)
}

// profilesOf are the profiles of members.
func profilesOf(members []*member) []event.Profile {
	list := make([]event.Profile, len(members))
	for i, p := range members {
		list[i] = p.Profile()
	}
	return list
}

// Recipients are those whom an event was for that a log has taken. Of a room they are its members as
// the event took its place, as far as is remembered; or those of now, where another service owns
// membership and the event was not published just now.
func (m *Members) Recipients(ctx context.Context, e *history.Entry) ([]event.Profile, error) {
	r, isRoom := e.Event.Target.Room()
	switch {
	case !isRoom:
		return withoutExcluded(e.Event, slices.Clone(e.Event.Target.Profiles)), nil
	case e.Recipients != nil:
		return e.Recipients, nil
	case m.OwnsMembership():
		members, err := m.membersThen(ctx, e.Event.TenantID, r, e.Cursor)
		return withoutExcluded(e.Event, members), err
	}
	members, err := m.Members(ctx, e.Event.TenantID, r, func(int) (func(), error) { return func() {}, nil })
	return withoutExcluded(e.Event, members), err
}

// membersThen are those who belonged to a room at a place, sorted, as far as is remembered; those of
// now where the place is of another history than what is remembered.
func (m *Members) membersThen(ctx context.Context, tenant string, r event.Room, at history.Cursor) ([]event.Profile, error) {
	t, err := m.look(ctx, tenant)
	if t == nil {
		return nil, err
	}
	if !t.rooms.IsOf(at.Epoch) {
		at.Seq = math.MaxUint64
	}
	members := t.rooms.Then(r, at.Seq)
	former := t.rooms.Former(r, at.Seq, t.restLocked)
	t.mu.Unlock()
	list := append(profilesOf(members), former...)
	slices.SortFunc(list, event.CompareProfiles)
	return slices.Compact(list), nil
}

// IsRecipient says whether an event that a log has taken was for somebody. known is false where it is
// not remembered whether they belonged to its room then.
func (m *Members) IsRecipient(ctx context.Context, e *history.Entry, p event.Profile) (is, known bool, err error) {
	r, isRoom := e.Event.Target.Room()
	switch {
	case slices.Contains(e.Event.Target.ExcludeProfiles, p):
		return false, true, nil
	case !isRoom:
		return e.Event.Target.Kind == event.KindTenant || slices.Contains(e.Event.Target.Profiles, p), true, nil
	case !m.OwnsMembership():
		is, _, err = m.Member(ctx, e.Event.TenantID, r, p)
		return is, is, err // who is none now may have been one then
	}
	t, err := m.look(ctx, e.Event.TenantID)
	if t == nil {
		return false, true, err
	}
	defer t.mu.Unlock()
	if !t.rooms.IsOf(e.Cursor.Epoch) {
		return false, false, nil
	}
	is, known = t.rooms.Was(r, p, e.Cursor.Seq)
	return is, known, nil
}

// CountRecipients is how many Recipients of an event there will be, about: nobody is asked, and those
// whom it excludes are counted.
func (m *Members) CountRecipients(e *event.Event) int {
	r, isRoom := e.Target.Room()
	if !isRoom {
		return len(e.Target.Profiles)
	}
	t := m.tenants.find(e.TenantID)
	if t == nil {
		return 0
	}
	defer t.mu.Unlock()
	return t.rooms.Of(r).Len()
}

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

// RoomsOf are the rooms that a few profiles belong to, as this hub knows; one may come twice.
func (m *Members) RoomsOf(tenant string, profiles []event.Profile) (rooms []event.Room) {
	if t := m.tenants.find(tenant); t != nil {
		for _, p := range profiles {
			rooms = t.rooms.AppendRooms(rooms, p)
		}
		t.mu.Unlock()
	}
	return rooms
}

// AnyMember says whether is holds for some member of a room, as this hub knows it. It asks first for
// some of those who are connected here. The tenant is not locked meanwhile.
func (m *Members) AnyMember(tenant string, room event.Room, is func(event.Profile) bool) bool {
	isMember := func(p *member) bool { return is(p.Profile()) }
	t := m.tenants.find(tenant)
	if t == nil {
		return false
	}
	here, _ := t.rooms.Here(room, math.MaxUint64)
	some := slices.Clone(here[:min(len(here), memberPiece)])
	t.mu.Unlock()
	if slices.ContainsFunc(some, isMember) {
		return true
	}
	if t = m.tenants.find(tenant); t == nil {
		return false
	}
	all := t.rooms.Snapshot(room)
	t.mu.Unlock()
	return slices.ContainsFunc(all, isMember)
}

// sharePiece is of how many profiles Share says it before others have the tenant: of each all rooms
// may have to be looked at.
const sharePiece = 50

// Share says of each profile whether it has a room in common with viewer.
func (m *Members) Share(tenant string, viewer event.Profile, profiles []event.Profile) []bool {
	share := make([]bool, len(profiles))
	for from := 0; from < len(profiles); from += sharePiece {
		t := m.tenants.find(tenant)
		if t == nil { // it has no rooms anymore
			return share
		}
		for i := from; i < min(from+sharePiece, len(profiles)); i++ {
			share[i] = t.rooms.Share(viewer, profiles[i])
		}
		t.mu.Unlock()
	}
	return share
}
