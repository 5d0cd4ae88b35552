package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
	"realtimehub/internal/room"
	"realtimehub/internal/sized"
)

// resolveTime is how long whoever owns membership is waited for, for however many rooms.
const resolveTime = 2 * time.Second

// members is who belongs where: in each tenant's own rooms, in those that all hubs of a
// cluster keep, or in another service's.
type members struct {
	tenants  *tenants
	shared   room.Shared // nil: this hub keeps it by itself
	resolver room.Resolver
	limit    int // memberships of a tenant; 0: any number
	logger   *slog.Logger

	changing gates // while a shared room of a tenant is changed, or another would change it meanwhile

	complaint rate.Sometimes // once a second: a service that is away fails every call

	full    atomic.Int64 // how often one had too many
	fullLog rate.Sometimes
}

func newMembers(tenants *tenants, shared room.Shared, resolver room.Resolver, limit int, logger *slog.Logger) *members {
	m := &members{tenants: tenants, shared: shared, resolver: resolver, limit: limit, logger: logger, complaint: rate.Sometimes{Interval: time.Second}}
	m.fullLog.Interval = time.Second
	if shared != nil {
		shared.Follow(m.belong, m.clear)
	}
	return m
}

func (m *members) ownsMembership() bool {
	_, own := m.resolver.(room.Own)
	return own
}

// resolve makes sure of a room's membership before anything is stored or locked.
func (m *members) resolve(ctx context.Context, tenant string, room event.Room) (*room.Roster, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	roster, err := m.resolver.Resolve(ctx, tenant, room)
	return roster, m.noAnswer(tenant, room, err)
}

func (m *members) noAnswer(tenant string, r event.Room, err error) error {
	if err == nil {
		return nil
	}
	if wrong, ok := errors.AsType[*problem.FieldError](err); ok {
		return wrong
	}
	m.complaint.Do(func() { m.logger.Warn("membership", "tenant", tenant, "room", r.ID, "err", err) })
	return errors.Join(room.ErrMembership, err)
}

// resolveAll is resolve for many rooms together, as long as ctx allows. It has nil for
// those of which nobody can say, and says of one of them why.
func (m *members) resolveAll(ctx context.Context, rooms []room.Key) (rosters []*room.Roster, err error) {
	rosters = make([]*room.Roster, len(rooms))
	errs := make([]error, len(rooms))
	fair.ForEach(len(rooms), func(i int) { rosters[i], errs[i] = m.resolver.Resolve(ctx, rooms[i].Tenant, rooms[i].Room) })
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return rosters, m.noAnswer(rooms[i].Tenant, rooms[i].Room, errs[i])
	}
	return rosters, nil
}

// Refresh asks whoever owns a room's membership anew; what the answer says holds for
// all that is published here from then on. ErrNoService, ErrMembership.
func (m *members) Refresh(ctx context.Context, name string, r event.Room) error {
	service, ok := m.resolver.(room.Refresher)
	if !ok {
		return room.ErrNoService
	}
	roster, err := service.Refresh(ctx, name, r)
	if err != nil {
		return m.noAnswer(name, r, err)
	}
	if t := m.tenants.find(name); t != nil {
		if t.attached { // else nobody is here, and who publishes asks first
			t.adoptLocked(r, roster, time.Now())
		}
		t.mu.Unlock()
	}
	return nil
}

// SetMembers replaces a room's members. ErrExternal where the hub does not own
// membership, ErrMemberships and allowance.ErrTenant where the tenant has too many: nothing
// is changed then; ErrUnconfirmed where not all of its cluster know. So for AddMember
// and RemoveMember.
func (m *members) SetMembers(ctx context.Context, name string, room event.Room, members []event.Profile) error {
	return m.change(ctx, name, room, len(members) > 0, func(r *memberships) (join, leave []event.Profile) { return r.Differ(room, members) })
}

// AddMember adds one member.
func (m *members) AddMember(ctx context.Context, name string, room event.Room, p event.Profile) error {
	return m.change(ctx, name, room, true, func(r *memberships) (join, leave []event.Profile) {
		if !r.Has(room, p) {
			join = []event.Profile{p}
		}
		return join, nil
	})
}

// RemoveMember removes one member.
func (m *members) RemoveMember(ctx context.Context, name string, room event.Room, p event.Profile) error {
	return m.change(ctx, name, room, false, func(r *memberships) (join, leave []event.Profile) {
		if r.Has(room, p) {
			leave = []event.Profile{p}
		}
		return nil, leave
	})
}

// change has profiles join and leave a room.
func (m *members) change(ctx context.Context, name string, r event.Room, create bool, differ func(*memberships) (join, leave []event.Profile)) error {
	if !m.ownsMembership() {
		return room.ErrExternal
	}
	if m.shared != nil {
		return m.changeShared(ctx, name, r, differ)
	}
	t := m.tenants.find(name)
	if t == nil && !create {
		return nil
	}
	if t != nil {
		t.mu.Unlock()
	}
	t, err := m.tenants.open(ctx, name) // its place must be known
	if err != nil {
		return err
	}
	join, leave := differ(&t.rooms)
	if err = m.admitLocked(t, r, join, leave); err == nil {
		t.changeMembersLocked(r, join, leave)
	}
	empty := t.rooms.Empty()
	t.mu.Unlock()
	if empty {
		m.tenants.forget(name)
	}
	return err
}

// admitLocked takes what it takes for profiles to join a room while others leave it, if
// the tenant may have so many.
func (m *members) admitLocked(t *tenant, r event.Room, join, leave []event.Profile) error {
	if len(join) == 0 {
		return nil // to have fewer is always allowed
	}
	err := error(nil)
	if more := len(join) - len(leave); m.limit > 0 && more > 0 && t.rooms.Count()+more > m.limit {
		m.full.Add(1)
		err = room.ErrMemberships
	} else {
		err = t.joinLocked(r, join)
	}
	if err != nil {
		m.fullLog.Do(func() { m.logger.Warn("members refused", "tenant", t.name, "room", r.ID, "err", err) })
	}
	return err
}

// changeShared is change where all hubs of a cluster keep membership: what is
// stored comes back, to all of them, through belong.
func (m *members) changeShared(ctx context.Context, name string, r event.Room, differ func(*memberships) (join, leave []event.Profile)) error {
	for {
		t, err := m.tenants.know(ctx, name)
		if err != nil {
			return err
		}
		t.mu.Unlock()
		if err := m.changing.pass(ctx, name); err != nil {
			return err
		}
		err = m.changeOnce(ctx, t, r, differ)
		m.changing.end(name)
		if !errors.Is(err, room.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

func (m *members) changeOnce(ctx context.Context, t *tenant, r event.Room, differ func(*memberships) (join, leave []event.Profile)) error {
	was, err := m.shared.Now(ctx, t.name, r)
	if err != nil {
		return err
	}
	t.mu.Lock()
	if t.forgotten || !t.rooms.IsOf(was.Now.Epoch) {
		t.mu.Unlock()
		return room.ErrConflict
	}
	place := was.Now.Seq
	join, leave := differ(&t.rooms)
	if err := m.admitLocked(t, r, join, leave); err != nil {
		t.mu.Unlock()
		return err
	}
	empty := t.rooms.Len(r)+len(join) == len(leave)
	changed := make([]room.Membership, 0, len(join)+len(leave))
	for _, p := range join {
		b := t.rooms.Belonging(r, p)
		b.Member, b.Stays = true, append(b.Stays, history.Stay{Room: r, From: place, Until: math.MaxUint64})
		changed = append(changed, b)
	}
	for _, p := range leave {
		b := t.rooms.Belonging(r, p)
		b.Member = false
		if last := &b.Stays[len(b.Stays)-1]; last.From < place {
			last.Until = place
		} else {
			b.Stays = b.Stays[:len(b.Stays)-1]
		}
		changed = append(changed, b)
	}
	t.mu.Unlock()
	err = m.shared.Change(ctx, t.name, r, was, changed, empty)
	t.mu.Lock()
	t.settleLocked() // what was taken for it is kept now, or not
	t.mu.Unlock()
	return err
}

// belong is the shared membership's word of what changed in a room.
func (m *members) belong(name string, of history.Epoch, room event.Room, changed []room.Membership) {
	t := m.tenants.find(name)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	t.rooms.Restart(of)
	for _, b := range changed {
		t.rooms.Set(room, b)
	}
	t.growLocked()
}

// clear is the shared membership's word that it is gone.
func (m *members) clear(name string) {
	if t := m.tenants.find(name); t != nil {
		t.rooms.Clear()
		t.settleLocked()
		t.mu.Unlock()
	}
}

// Members are a room's, sorted; ErrMembership when nobody can say. Before the list is made
// begin is told how long it will be, and may refuse it; once it is made, end is called.
func (m *members) Members(ctx context.Context, tenant string, room event.Room, begin func(size int) (end func(), err error)) ([]event.Profile, error) {
	roster, err := m.resolve(ctx, tenant, room)
	if err != nil {
		return nil, err
	}
	size := 0
	if roster != nil {
		size = len(roster.Members)
	} else if t, err := m.look(ctx, tenant); t != nil {
		size = t.rooms.Len(room)
		t.mu.Unlock()
	} else if err != nil {
		return nil, err
	}
	end, err := begin(size)
	if err != nil {
		return nil, err
	}
	defer end()
	list := make([]event.Profile, 0, size)
	if roster != nil {
		list = append(list, roster.Members...)
	} else if t := m.tenants.find(tenant); t != nil {
		list = slices.AppendSeq(list, t.rooms.Members(room))
		t.mu.Unlock()
	}
	slices.SortFunc(list, event.CompareProfiles)
	return list, nil
}

// look is find, with what other hubs know known here.
func (m *members) look(ctx context.Context, name string) (*tenant, error) {
	err := m.tenants.Know(ctx, name)
	return m.tenants.find(name), err
}

// Member says whether p belongs to a room, and how many do.
func (m *members) Member(ctx context.Context, tenant string, room event.Room, p event.Profile) (member bool, size int, err error) {
	roster, err := m.resolve(ctx, tenant, room)
	if err != nil {
		return false, 0, err
	}
	if roster != nil {
		return slices.Contains(roster.Members, p), len(roster.Members), nil
	}
	t, err := m.look(ctx, tenant)
	if t == nil {
		return false, 0, err
	}
	defer t.mu.Unlock()
	return t.rooms.Has(room, p), t.rooms.Len(room), nil
}

// Share says of each profile whether it has a room in common with viewer.
func (m *members) Share(tenant string, viewer event.Profile, profiles []event.Profile) []bool {
	share := make([]bool, len(profiles))
	if t := m.tenants.find(tenant); t != nil {
		defer t.mu.Unlock()
		for i, p := range profiles {
			share[i] = t.rooms.Share(viewer, p)
		}
	}
	return share
}

// readerLocked is who p is as one who reads a tenant's history.
func (m *members) readerLocked(t *tenant, p event.Profile) *history.Reader {
	r := t.rooms.Reader(p)
	t.settleLocked()
	if m.ownsMembership() {
		r.RoomsFrom = 0 // of its own a hub forgets none
	}
	if m.tenants.inCluster() {
		r.StaysFrom = math.MaxUint64 // another hub may have pruned them
		r.AllRooms = !m.ownsMembership()
	}
	return r
}

// settle brings the tenants' rooms up to date before events for them are placed: also
// where nobody is connected, since who resumes later is to get them. Where another
// service owns membership, it says how many members each event's room has; else nil.
// allowance.ErrTenant where the tenant may not have one more room kept, unless it has to be.
func (m *members) settle(ctx context.Context, hasToBe bool, events ...*event.Event) (sizes []int, err error) {
	if m.ownsMembership() {
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
	waits, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	rosters, unknown := m.resolveAll(waits, rooms)
	now := time.Now()
	for i, key := range rooms {
		if rosters[i] == nil {
			continue
		}
		t, err := m.tenants.open(ctx, key.Tenant)
		if err != nil {
			return nil, err
		}
		if !hasToBe && t.resolved[key.Room] == nil {
			err = t.takeLocked(resolvedBytes + sized.Text(key.Room.ID) + t.rooms.JoinBytes(key.Room, rosters[i].Members))
		}
		if err == nil {
			t.adoptLocked(key.Room, rosters[i], now)
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
