package event

import (
	"github.com/google/uuid"

	"realtimehub/internal/sized"
)

// Bytes is the memory that the names take.
func (r Room) Bytes() int64 { return sized.Text(string(r.Kind)) + sized.Text(r.ID) }

// weight is the memory that a target's parts take; the struct itself is counted by its event.
func (t *Target) weight() int64 {
	n := sized.Text(string(t.Kind)) + sized.Text(t.ConversationID) + sized.Text(t.GroupID) + sized.Text(t.ConnectionID) +
		sized.Block(cap(t.ExcludeConnections)*len(uuid.UUID{}))
	for _, profiles := range [][]Profile{t.Profiles, t.ExcludeProfiles} {
		n += sized.Block(cap(profiles) * profileBytes)
		for _, p := range profiles {
			n += p.Bytes()
		}
	}
	return n
}

// profileBytes is a Profile's own size: the headers of two strings.
const profileBytes = 32

// Weight is the memory that an event's parts take, apart from the payload, which is a part
// of the envelope once the event is sealed.
func (e *Event) Weight() int64 {
	return sized.Text(e.ID) + sized.Text(e.TenantID) + sized.Text(e.Type) + sized.Text(e.CorrelationID) + sized.Text(e.TraceParent) + e.Target.weight()
}
