package event

import (
	"github.com/google/uuid"

	"realtimehub/internal/sized"
)

func (r Room) Bytes() int64 { return sized.Text(string(r.Kind)) + sized.Text(r.ID) }

// weight is the memory that what a target is made of takes.
func (t *Target) weight() int64 {
	n := sized.Text(string(t.Kind)) + sized.Text(t.ConversationID) + sized.Text(t.GroupID) + sized.Text(t.ConnectionID) +
		sized.Block(cap(t.ExcludeConnections)*len(uuid.UUID{}))
	for _, profiles := range [][]Profile{t.Profiles, t.ExcludeProfiles} {
		n += sized.Block(cap(profiles) * refBytes)
		for _, p := range profiles {
			n += p.Bytes()
		}
	}
	return n
}

// refBytes is a Profile's own size: two texts' headers.
const refBytes = 32

// Weight is the memory that what an event is made of takes, but for its payload, which
// is part of its envelope.
func (e *Event) Weight() int64 {
	return sized.Text(e.ID) + sized.Text(e.TenantID) + sized.Text(e.Type) + sized.Text(e.CorrelationID) + sized.Text(e.TraceParent) + e.Target.weight()
}
