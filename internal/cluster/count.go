package cluster

import (
	"github.com/google/uuid"

	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// count is how many remote connections an event's target resolves to, of whose room these are
// the members. It looks at them, or at all profiles elsewhere, whichever are fewer.
func (r *remotes) count(e *event.Event, members room.Crowd) (n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.tenants[e.TenantID]
	if t == nil || t.sessions.Len() == 0 {
		return 0
	}
	excluded := event.ExcludedBy(&e.Target)
	without := t.withoutOf(&excluded)
	add := func(who *person) {
		if who != nil && !excluded.HasAll(who.ref) {
			n += who.open - without[who]
		}
	}
	switch e.Target.Kind {
	case event.KindProfile, event.KindProfiles:
		for _, ref := range e.Target.Profiles {
			add(t.people.Get(ref))
		}
	case event.KindConnection:
		id, err := uuid.Parse(e.Target.ConnectionID)
		if s := t.sessions.Get(id); err == nil && s != nil && !excluded.Has(s.who.ref, id) {
			return 1
		}
	case event.KindTenant:
		if excluded.Nobody() {
			return t.sessions.Len()
		}
		for who := range t.people.Values() {
			add(who)
		}
	default:
		if members.Len() < t.people.Len() {
			for ref := range members.All() {
				add(t.people.Get(ref))
			}
			return n
		}
		for ref, who := range t.people.All() {
			if members.Has(ref) {
				add(who)
			}
		}
	}
	return n
}

// withoutOf is how many connections of each person are left out one by one.
func (t *tenantRemotes) withoutOf(excluded *event.Excluded) map[*person]int {
	var without map[*person]int
	for id := range excluded.Connections() {
		if s := t.sessions.Get(id); s != nil {
			if without == nil {
				without = map[*person]int{}
			}
			without[s.who]++
		}
	}
	return without
}
