package main

import "github.com/google/uuid"

func (r Room) bytes() int64 { return textBytes(string(r.Kind)) + textBytes(r.ID) }

// weight is the memory that what a target is made of takes.
func (t *Target) weight() int64 {
	n := textBytes(string(t.Kind)) + textBytes(t.ConversationID) + textBytes(t.GroupID) + textBytes(t.ConnectionID) +
		blockBytes(cap(t.ExcludeConnections)*len(uuid.UUID{}))
	for _, profiles := range [][]ProfileRef{t.Profiles, t.ExcludeProfiles} {
		n += blockBytes(cap(profiles) * refBytes)
		for _, p := range profiles {
			n += p.bytes()
		}
	}
	return n
}

// refBytes is a ProfileRef's own size: two texts' headers.
const refBytes = 32

// weight is the memory that what an event is made of takes, but for its payload, which
// is part of its envelope.
func (e *Event) weight() int64 {
	return textBytes(e.ID) + textBytes(e.TenantID) + textBytes(e.Type) + textBytes(e.CorrelationID) + textBytes(e.TraceParent) + e.Target.weight()
}
