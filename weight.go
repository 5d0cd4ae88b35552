package main

import "github.com/google/uuid"

// blockBytes is the memory that Go takes for so many bytes: its sizes lie up to a fifth apart,
// and above 32 KiB it takes whole pages (runtime/sizeclasses.go).
func blockBytes(n int) int64 {
	const page = 8 << 10
	switch {
	case n > 4*page:
		return int64(n+page-1) &^ (page - 1)
	case n > 256:
		n += n / 8
	}
	return int64(n+15) &^ 15
}

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
