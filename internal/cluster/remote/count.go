package remote

import (
	"maps"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// Count is how many remote connections an event's target resolves to, of whose room these are
// the members.
func (c *Connections) Count(e *event.Event, members room.Crowd) (n int) {
	t := c.known(e.TenantID)
	if t == nil {
		return 0
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.sessions.len() == 0 {
		return 0
	}
	excluded := event.ExcludedBy(&e.Target)
	switch e.Target.Kind {
	case event.KindProfile, event.KindProfiles:
		without := t.withoutLocked(&excluded)
		for _, ref := range e.Target.Profiles {
			if who := t.people.Get(ref); who != nil && !excluded.HasAll(ref) {
				n += who.open - without[who]
			}
		}
		return n
	case event.KindConnection:
		id, err := event.ParseConnectionID(e.Target.ConnectionID)
		if who, _ := t.sessions.get(id); err == nil && who != nil && !excluded.Has(who.Key(), id) {
			n = 1
		}
		return n
	case event.KindTenant:
		return t.sessions.len() - t.excludedLocked(&excluded, func(event.Profile) bool { return true })
	}
	room, _ := e.Target.Room()
	return max(0, t.inRoomLocked(room, members)-t.excludedLocked(&excluded, members.Has)) // somebody may have come since it was counted
}

// excludedLocked is how many connections of some people are left out.
func (t *ofTenant) excludedLocked(excluded *event.Excluded, in func(event.Profile) bool) (n int) {
	for ref := range excluded.Profiles() {
		if who := t.people.Get(ref); who != nil && in(ref) {
			n += who.open
		}
	}
	for who, some := range t.withoutLocked(excluded) {
		if in(who.Key()) && !excluded.HasAll(who.Key()) {
			n += some
		}
	}
	return n
}

// roomCount is how many connections elsewhere a large room had at a time.
type roomCount struct {
	connections int
	at          time.Time
}

const (
	largeRoom = 1000        // of which so many would be looked at for each event
	countTTL  = time.Second // as the contract says: what is told of connections was so within it
)

// inRoomLocked is how many connections elsewhere a room's members have. It looks at the members or at
// all people elsewhere, whichever are fewer; where those are many, once a second.
func (t *ofTenant) inRoomLocked(room event.Room, members room.Crowd) (n int) {
	if min(members.Len(), t.people.Len()) <= largeRoom {
		return t.lookInRoomLocked(members)
	}
	t.counting.Lock()
	defer t.counting.Unlock()
	now := time.Now()
	if count := t.counts[room]; now.Sub(count.at) < countTTL {
		return count.connections
	}
	maps.DeleteFunc(t.counts, func(_ event.Room, count roomCount) bool { return now.Sub(count.at) >= countTTL })
	if t.counts == nil {
		t.counts = map[event.Room]roomCount{}
	}
	n = t.lookInRoomLocked(members)
	t.counts[room] = roomCount{connections: n, at: now}
	return n
}

func (t *ofTenant) lookInRoomLocked(members room.Crowd) (n int) {
	if members.Len() < t.people.Len() {
		for ref := range members.All() {
			if who := t.people.Get(ref); who != nil {
				n += who.open
			}
		}
		return n
	}
	for who := range t.people.All() {
		if members.Has(who.Key()) {
			n += who.open
		}
	}
	return n
}

// withoutLocked is how many connections of each person are left out one by one.
func (t *ofTenant) withoutLocked(excluded *event.Excluded) map[*person]int {
	var without map[*person]int
	for id := range excluded.Connections() {
		if who, _ := t.sessions.get(id); who != nil {
			if without == nil {
				without = map[*person]int{}
			}
			without[who]++
		}
	}
	return without
}
