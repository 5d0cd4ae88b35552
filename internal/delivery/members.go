package delivery

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
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// Members is who belongs where: in each tenant's own rooms, in those that all hubs of a
// cluster keep, or in another service's.
type Members struct {
	tenants  *Tenants
	shared   room.Shared // nil: this hub keeps it by itself
	resolver room.Resolver
	limit    int // memberships of a tenant; 0: any number
	logger   *slog.Logger

	changing gates // while a shared room of a tenant is changed, or another would change it meanwhile

	complaint rate.Sometimes // once a second: a service that is away fails every call

	full    atomic.Int64 // how often one had too many
	fullLog rate.Sometimes
}

func newMembers(tenants *Tenants, cfg Config) *Members {
	m := &Members{
		tenants: tenants, shared: cfg.Rooms, resolver: cfg.Resolver, limit: cfg.Memberships, logger: cfg.Logger,
		complaint: rate.Sometimes{Interval: time.Second}, fullLog: rate.Sometimes{Interval: time.Second},
	}
	if m.shared != nil {
		m.shared.Follow(m.belong, m.clear)
	}
	if service, ok := m.resolver.(room.Refresher); ok && cfg.Node != nil {
		service.Away(cfg.Node.Away) // what was refreshed meanwhile did not reach this hub
	}
	return m
}

// Full is how many changes were refused since a tenant had as many memberships as it may.
func (m *Members) Full() int64 { return m.full.Load() }

// OwnsMembership says that no other service owns membership.
func (m *Members) OwnsMembership() bool {
	_, own := m.resolver.(room.Own)
	return own
}

// SetMembers replaces a room's members. ErrExternal where the hub does not own
// membership, ErrMemberships and allowance.ErrTenant where the tenant has too many: nothing
// is changed then; ErrUnconfirmed where not all of its cluster know. So for AddMember
// and RemoveMember.
func (m *Members) SetMembers(ctx context.Context, name string, in event.Room, members []event.Profile) error {
	return m.change(ctx, name, in, len(members) > 0, func(t *tenant) (join, leave []event.Profile) {
		t.mu.Lock()
		were := t.rooms.Snapshot(in)
		t.mu.Unlock()
		return room.Differ(were, members)
	})
}

// AddMember adds one member.
func (m *Members) AddMember(ctx context.Context, name string, room event.Room, p event.Profile) error {
	return m.change(ctx, name, room, true, func(t *tenant) (join, leave []event.Profile) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.rooms.Has(room, p) {
			join = []event.Profile{p}
		}
		return join, nil
	})
}

// RemoveMember removes one member.
func (m *Members) RemoveMember(ctx context.Context, name string, room event.Room, p event.Profile) error {
	return m.change(ctx, name, room, false, func(t *tenant) (join, leave []event.Profile) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.rooms.Has(room, p) {
			leave = []event.Profile{p}
		}
		return nil, leave
	})
}

// change has profiles join and leave a room. Nothing else changes the tenant's rooms between the
// call of changes, which says who does, and the end. Where they are many, others have the tenant
// meanwhile.
func (m *Members) change(ctx context.Context, name string, r event.Room, create bool, changes func(*tenant) (join, leave []event.Profile)) error {
	if !m.OwnsMembership() {
		return room.ErrExternal
	}
	if m.shared != nil {
		return m.changeShared(ctx, name, r, changes)
	}
	t := m.tenants.find(name)
	if t == nil && !create {
		return nil
	}
	if t != nil {
		t.mu.Unlock()
	}
	t, err := m.tenants.openLocked(ctx, name) // its place must be known
	if err != nil {
		return err
	}
	t.readers++ // it is not forgotten meanwhile
	t.mu.Unlock()
	err = m.changing.pass(ctx, name)
	if err == nil {
		join, leave := changes(t)
		t.mu.Lock()
		if err = m.admitLocked(t, r, join, leave); err == nil {
			t.changeMembers(r, join, leave)
		}
		t.mu.Unlock()
		m.changing.end(name)
	}
	t.mu.Lock()
	t.readers--
	empty := t.rooms.Empty()
	t.mu.Unlock()
	if empty {
		m.tenants.forget(name)
	}
	return err
}

// admitLocked takes what it takes for profiles to join a room while others leave it, if
// the tenant may have so many.
func (m *Members) admitLocked(t *tenant, r event.Room, join, leave []event.Profile) error {
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
		m.fullLog.Do(func() {
			m.logger.Warn("new members of a room were refused", "tenant", t.name, "room", r.ID, "err", err)
		})
	}
	return err
}

// changeShared is change where all hubs of a cluster keep membership: what is
// stored comes back, to all of them, through belong.
func (m *Members) changeShared(ctx context.Context, name string, r event.Room, changes func(*tenant) (join, leave []event.Profile)) error {
	for {
		t, err := m.tenants.roomsLocked(ctx, name)
		if err != nil {
			return err
		}
		t.mu.Unlock()
		if err := m.changing.pass(ctx, name); err != nil {
			return err
		}
		err = m.changeOnce(ctx, t, r, changes)
		m.changing.end(name)
		t.mu.Lock()
		m.tenants.leaveLocked(t) // what was refused, or took the last member away, leaves none
		if !errors.Is(err, room.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

func (m *Members) changeOnce(ctx context.Context, t *tenant, r event.Room, changes func(*tenant) (join, leave []event.Profile)) error {
	was, err := m.shared.Now(ctx, t.name, r)
	if err != nil {
		return err
	}
	join, leave := changes(t)
	t.mu.Lock()
	if t.forgotten || !t.rooms.IsOf(was.Now.Epoch) {
		t.mu.Unlock()
		return room.ErrConflict
	}
	if err := m.admitLocked(t, r, join, leave); err != nil {
		t.mu.Unlock()
		return err
	}
	empty := t.rooms.Len(r)+len(join) == len(leave)
	t.mu.Unlock()
	changed, err := t.turn(r, join, leave, was.Now.Seq)
	if err == nil {
		err = m.shared.Change(ctx, t.name, r, was, changed, empty)
	}
	t.mu.Lock()
	t.settleLocked() // what was taken for it is kept now, or not
	t.mu.Unlock()
	return err
}

// turn is what is to be kept of profiles that join and leave a room at a place. ErrConflict: one
// has done so meanwhile.
func (t *tenant) turn(r event.Room, join, leave []event.Profile, place uint64) (changed []room.Membership, err error) {
	for some := range slices.Chunk(slices.Concat(join, leave), memberPiece) {
		t.mu.Lock()
		for _, p := range some {
			changed = append(changed, t.rooms.Belonging(r, p))
		}
		t.mu.Unlock()
	}
	for i := range changed {
		b, joins := &changed[i], i < len(join)
		if b.Member == joins {
			return nil, room.ErrConflict
		}
		b.Member = joins
		switch last := len(b.Stays) - 1; {
		case joins:
			b.Stays = append(b.Stays, history.Stay{Room: r, From: place, Until: math.MaxUint64})
		case b.Stays[last].From < place:
			b.Stays[last].Until = place
		default:
			b.Stays = b.Stays[:last]
		}
	}
	return changed, nil
}

// belong is the shared membership's word of what changed in a room.
func (m *Members) belong(name string, of history.Epoch, room event.Room, changed []room.Membership) {
	t := m.tenants.find(name)
	if t == nil {
		return
	}
	t.rooms.Restart(of)
	for some := range slices.Chunk(changed, memberPiece) {
		for _, b := range some {
			if !t.rooms.IsOf(of) { // it has begun anew meanwhile
				b = b.Restarted(room)
			}
			t.hearFirstLocked(b.Profile)
			t.rooms.Set(room, b)
		}
		t.mu.Unlock()
		t.mu.Lock() // others had it in between
		if t.forgotten {
			break
		}
	}
	if !t.forgotten {
		t.growLocked()
	}
	t.mu.Unlock()
}

// clear is the shared membership's word that it is gone.
func (m *Members) clear(name string) {
	if t := m.tenants.find(name); t != nil {
		t.walkOnLocked()
		t.rooms.Clear()
		t.settleLocked()
		t.mu.Unlock()
	}
}

// Members returns a room's members, sorted, or ErrMembership if nobody knows them. begin is
// called with the length of the list before it is made, and may refuse it; the function that
// begin returns is called once the list is made.
func (m *Members) Members(ctx context.Context, tenant string, room event.Room, begin func(size int) (end func(), err error)) ([]event.Profile, error) {
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
	list := []event.Profile{}
	if roster != nil {
		list = append(list, roster.Members...)
	} else if t := m.tenants.find(tenant); t != nil {
		were := t.rooms.Snapshot(room)
		t.mu.Unlock()
		list = profilesOf(were)
	}
	slices.SortFunc(list, event.CompareProfiles)
	return list, nil
}

// look is find, after this hub has learned what other hubs know of the tenant.
func (m *Members) look(ctx context.Context, name string) (*tenant, error) {
	if err := m.tenants.ensure(ctx, name); err != nil {
		return nil, err
	}
	return m.tenants.find(name), nil
}

// Member says whether p belongs to a room, and how many do.
func (m *Members) Member(ctx context.Context, tenant string, room event.Room, p event.Profile) (member bool, size int, err error) {
	roster, err := m.resolve(ctx, tenant, room)
	if err != nil {
		return false, 0, err
	}
	if roster != nil {
		return roster.Has(p), len(roster.Members), nil
	}
	t, err := m.look(ctx, tenant)
	if t == nil {
		return false, 0, err
	}
	defer t.mu.Unlock()
	return t.rooms.Has(room, p), t.rooms.Len(room), nil
}
