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
	return roster, m.noAnswer(tenant, room, err)
}

func (m *Members) noAnswer(tenant string, r event.Room, err error) error {
	if err == nil {
		return nil
	}
	if wrong, ok := errors.AsType[*problem.FieldError](err); ok {
		return wrong
	}
	m.complaint.Do(func() {
		m.logger.Warn("the members of a room could not be resolved", "tenant", tenant, "room", r.ID, "err", err)
	})
	return errors.Join(room.ErrMembership, err)
}

// resolveAll is resolve for many rooms together, as long as ctx allows. The roster of a room
// whose members nobody knows is nil; the error is that of one such room.
func (m *Members) resolveAll(ctx context.Context, rooms []room.Key) (rosters []*room.Roster, err error) {
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
func (m *Members) Refresh(ctx context.Context, name string, r event.Room) error {
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
	if m.OwnsMembership() {
		r.RoomsFrom = 0 // of its own a hub forgets none
	}
	if m.tenants.InCluster() {
		r.StaysFrom = math.MaxUint64 // another hub may have pruned them
		r.AllRooms = !m.OwnsMembership()
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
