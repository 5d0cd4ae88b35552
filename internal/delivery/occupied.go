package delivery

import "realtimehub/internal/event"

// RoomsOf are the rooms that some profiles belong to, as this hub knows; one may come twice.
func (m *Members) RoomsOf(tenant string, profiles []event.Profile) (rooms []event.Room) {
	if t := m.tenants.find(tenant); t != nil {
		for _, p := range profiles {
			rooms = t.rooms.AppendRooms(rooms, p)
		}
		t.mu.Unlock()
	}
	return rooms
}

// AnyMember says whether is holds for some member of a room, as this hub knows it. It asks first
// for those who are connected here. The tenant is locked meanwhile.
func (m *Members) AnyMember(tenant string, room event.Room, is func(event.Profile) bool) (any bool) {
	if t := m.tenants.find(tenant); t != nil {
		for p := range t.rooms.Members(room) {
			if any = is(p); any {
				break
			}
		}
		t.mu.Unlock()
	}
	return any
}
