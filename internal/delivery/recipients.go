package delivery

import (
	"context"
	"slices"

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

// Recipients are those whom an event was for that a log has taken. Of a room they are its
// members as the event took its place; or those of now, where it took it long ago.
func (m *Members) Recipients(ctx context.Context, e *history.Entry) ([]event.Profile, error) {
	r, isRoom := e.Event.Target.Room()
	switch {
	case !isRoom:
		return withoutExcluded(e.Event, slices.Clone(e.Event.Target.Profiles)), nil
	case e.Recipients != nil:
		return e.Recipients, nil
	}
	members, err := m.Members(ctx, e.Event.TenantID, r, func(int) (func(), error) { return func() {}, nil })
	return withoutExcluded(e.Event, members), err
}
