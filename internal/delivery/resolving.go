package delivery

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
	"realtimehub/internal/room"
	"realtimehub/internal/sized"
)

// ResolveTime is how long whoever owns membership is waited for, for however many rooms.
const ResolveTime = 2 * time.Second

// resolve makes sure of a room's membership before anything is stored or locked.
func (m *Members) resolve(ctx context.Context, tenant string, room event.Room) (*room.Roster, error) {
	ctx, cancel := context.WithTimeout(ctx, ResolveTime)
	defer cancel()
	roster, err := m.resolver.Resolve(ctx, tenant, room)
	return roster, m.noAnswer(ctx, tenant, room, err)
}

func (m *Members) noAnswer(ctx context.Context, tenant string, r event.Room, err error) error {
	if err == nil {
		return nil
	}
	if wrong, ok := errors.AsType[*problem.FieldError](err); ok {
		return wrong
	}
	if !errors.Is(ctx.Err(), context.Canceled) { // whoever asked has not left before
		m.complaint.Do(func() {
			m.logger.Warn("the members of a room could not be resolved", "tenant", tenant, "room", r.ID, "err", err)
		})
	}
	return errors.Join(room.ErrMembership, err)
}

// resolveAll is resolve for many rooms together, as long as ctx allows. The roster of a room
// whose members nobody knows is nil; the error is that of one such room.
func (m *Members) resolveAll(ctx context.Context, rooms []room.Key) (rosters []*room.Roster, err error) {
	rosters = make([]*room.Roster, len(rooms))
	errs := make([]error, len(rooms))
	fair.ForEach(len(rooms), func(i int) { rosters[i], errs[i] = m.resolver.Resolve(ctx, rooms[i].Tenant, rooms[i].Room) })
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return rosters, m.noAnswer(ctx, rooms[i].Tenant, rooms[i].Room, errs[i])
	}
	return rosters, nil
}

// Refresh asks whoever owns a room's membership anew; what the answer says holds for
// all that is published here from then on. ErrNoService, ErrMembership.
func (m *Members) Refresh(ctx context.Context, name string, r event.Room) error {
	service, ok := m.resolver.(room.Refresher)
	if !ok {
		return room.ErrNoService
	}
	roster, err := service.Refresh(ctx, name, r)
	if err != nil {
		return m.noAnswer(ctx, name, r, err)
	}
	if t := m.tenants.find(name); t != nil {
		if t.attached { // else nobody is here, and who publishes asks first
			t.adopt(r, roster, time.Now())
		}
		t.mu.Unlock()
	}
	return nil
}

// readerLocked is who p is as one who reads a tenant's history.
func (m *Members) readerLocked(t *tenant, p event.Profile) *history.Reader {
	r := t.rooms.Reader(p)
	t.settleLocked()
	switch {
	case m.OwnsMembership():
		r.RoomsFrom = 0 // of its own a hub forgets none
	case m.tenants.InCluster():
		r.RoomsFrom = math.MaxUint64 // another hub may know more
	}
	if m.tenants.InCluster() {
		r.StaysFrom = math.MaxUint64 // another hub may have pruned them
	}
	return r
}

// ResolveRooms brings the members of the events' rooms up to date before the events get their
// places. It does so even if nobody is connected, since members who resume later must get the
// events. If another service owns membership it returns how many members each event's room
// has, and otherwise nil. The error is allowance.ErrTenant if the tenant's share has no room
// for one more room, unless hasToBe is set.
func (m *Members) ResolveRooms(ctx context.Context, hasToBe bool, events ...*event.Event) (sizes []int, err error) {
	if m.OwnsMembership() {
		return nil, nil
	}
	var rooms []room.Key
	places := map[room.Key]int{} // in rooms
	for _, e := range events {
		if r, ok := e.Target.Room(); ok {
			key := room.Key{Tenant: e.TenantID, Room: r}
			if _, twice := places[key]; !twice {
				places[key] = len(rooms)
				rooms = append(rooms, key)
			}
		}
	}
	waits, cancel := context.WithTimeout(ctx, ResolveTime)
	defer cancel()
	rosters, unknown := m.resolveAll(waits, rooms)
	now := time.Now()
	for i, key := range rooms {
		if rosters[i] == nil {
			continue
		}
		t, err := m.tenants.enter(ctx, key.Tenant, parts{log: true})
		if err != nil {
			return nil, err
		}
		if !hasToBe && t.resolved[key.Room] == nil {
			err = t.takeLocked(resolvedBytes + sized.Text(key.Room.ID) + t.rooms.JoinBytes(key.Room, rosters[i].Members))
		}
		if err == nil {
			t.adopt(key.Room, rosters[i], now)
		}
		t.mu.Unlock()
		if err != nil {
			m.tenants.forget(key.Tenant)
			return nil, err
		}
	}
	sizes = make([]int, len(events))
	for i, e := range events {
		in, _ := e.Target.Room()
		if at, ok := places[room.Key{Tenant: e.TenantID, Room: in}]; ok && rosters[at] != nil {
			sizes[i] = len(rosters[at].Members)
		}
	}
	return sizes, unknown
}

// resolved is a Resolver's answer as a tenant's rooms have it.
type resolved struct {
	roster   *room.Roster  // nil: the first is being adopted
	adopting chan struct{} // closed once another is adopted; nil: none is about to be
	used     time.Time
	at       uint64 // the tenant's place then
}

// resolvedBytes is of each answer of a Resolver.
const resolvedBytes = 48 + 2*41

// knowsLocked says whether a room's members have been told by a Resolver.
func (t *tenant) knowsLocked(room event.Room) bool {
	r := t.resolved[room]
	return r != nil && r.roster != nil
}

// adopt brings the tenant's rooms up to a Resolver's answer, unless they are up to a later one.
// The tenant is locked. Where much has changed others have it in between, but for those who adopt
// an answer of this room.
func (t *tenant) adopt(room event.Room, roster *room.Roster, now time.Time) {
	if roster == nil {
		return
	}
	t.readers++ // it is not forgotten meanwhile
	defer func() { t.readers-- }()
	r := t.resolvedLocked(room)
	for r.adopting != nil {
		over := r.adopting
		t.mu.Unlock()
		<-over
		t.mu.Lock()
		r = t.resolvedLocked(room)
	}
	r.used = now
	if r.roster != roster && (r.roster == nil || !roster.Before(r.roster)) {
		if r.roster == nil || !roster.Same(r.roster) {
			r.adopting = make(chan struct{})
			t.become(room, r.roster, roster)
			close(r.adopting)
			r.adopting = nil
		}
		r.roster = roster
	}
	r.at = t.head.Seq
	t.settleLocked()
}

// resolvedLocked is what is kept of a room's answers.
func (t *tenant) resolvedLocked(room event.Room) *resolved {
	r := t.resolved[room]
	if r == nil {
		r = &resolved{}
		t.resolved[room] = r
		t.bytes += resolvedBytes + sized.Text(room.ID)
	}
	return r
}

// become has a room's members, who were those of one answer, be those of another. The tenant is
// locked, but not while two long answers are compared, and not all the time where many join or
// leave.
func (t *tenant) become(in event.Room, was, is *room.Roster) {
	var join, leave []event.Profile
	switch here := t.rooms.Len(in); {
	case here == 0:
		join = is.Members
	case was == nil || here != len(was.Members): // it was being forgotten
		were := t.rooms.Snapshot(in)
		t.mu.Unlock()
		join, leave = room.Differ(were, is.Members)
		t.mu.Lock()
	case len(was.Members)+len(is.Members) <= memberPiece:
		join, leave = is.Differ(was)
	default:
		t.mu.Unlock()
		join, leave = is.Differ(was)
		t.mu.Lock()
	}
	t.changeMembers(in, join, leave)
}

// adoptAll is adopt of many rooms. It says whether one of them is unknown still.
func (t *tenant) adoptAll(rooms []room.Key, rosters []*room.Roster, now time.Time) (unknown bool) {
	for i, roster := range rosters {
		t.adopt(rooms[i].Room, roster, now)
		unknown = unknown || !t.knowsLocked(rooms[i].Room)
	}
	return unknown
}

// unresolveLocked forgets a Resolver's answer, and then those whom it had as members, a piece at a
// time. Others have the tenant between two pieces: rest lets them, and says whether to go on. Who
// resolves the room meanwhile has the rest of them stay, if it still has them.
func (t *tenant) unresolveLocked(room event.Room, rest func() bool) (goOn bool) {
	delete(t.resolved, room)
	t.bytes -= resolvedBytes + sized.Text(room.ID)
	for t.resolved[room] == nil {
		t.rooms.Unsure(t.head.Seq)
		some := make([]event.Profile, 0, memberPiece)
		for p := range t.rooms.Members(room) {
			if some = append(some, p); len(some) == memberPiece {
				break
			}
		}
		t.changeMembersLocked(room, nil, some)
		if !rest() {
			return false
		}
		if len(some) < memberPiece {
			break
		}
	}
	return true
}

// memberPiece is how many members of a room join or leave before others have the lock.
const memberPiece = 1000

// changeMembersLocked has profiles join and leave a room, as of now.
func (t *tenant) changeMembersLocked(room event.Room, join, leave []event.Profile) {
	for _, p := range join {
		t.hearFirstLocked(p)
		t.rooms.Add(room, p, t.head.Seq)
	}
	for _, p := range leave {
		t.hearFirstLocked(p)
		t.rooms.Remove(room, p, t.head.Seq)
	}
	t.growLocked()
}

// changeMembers is changeMembersLocked for many: others have the tenant between two pieces.
func (t *tenant) changeMembers(room event.Room, join, leave []event.Profile) {
	for len(join)+len(leave) > memberPiece {
		some := min(len(join), memberPiece)
		others := min(len(leave), memberPiece-some)
		t.changeMembersLocked(room, join[:some], leave[:others])
		join, leave = join[some:], leave[others:]
		t.mu.Unlock()
		t.mu.Lock()
	}
	t.changeMembersLocked(room, join, leave)
}
