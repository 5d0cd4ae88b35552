package delivery

import (
	"math"
	"slices"

	"realtimehub/internal/event"
)

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
