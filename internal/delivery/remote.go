package delivery

import (
	"context"
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
			if tenant, err := t.ensureLocked(ctx, e.TenantID); err == nil {
				tenant.mu.Unlock()
			}
			known = e.TenantID
		}
	}
}

// CountRemote is how many of an event's connections other hubs hold, and how many
// members its room has on all of them: -1 where that is not known.
func (t *Tenants) CountRemote(ctx context.Context, e *event.Event) (connections, members int) {
	if !t.SureNow() {
		return 0, -1
	}
	tenant, err := t.ensureLocked(ctx, e.TenantID)
	if err != nil {
		return 0, -1 // it is stored, and this is only told
	}
	defer tenant.mu.Unlock()
	room, _ := e.Target.Room()
	in := tenant.rooms.Of(room)
	return t.sharing.Count(e, in), in.Len()
}
