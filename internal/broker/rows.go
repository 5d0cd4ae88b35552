package broker

import (
	"strings"

	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// BelongingRow is a Belonging as it is stored.
type BelongingRow struct {
	Epoch  string      `json:"epoch"` // of the places, in the tenant's history
	Place  uint64      `json:"place"` // of the change
	Member bool        `json:"member"`
	Stays  [][2]uint64 `json:"stays"`
	Forgot uint64      `json:"forgot,omitempty"` // stays that ended up to this place may be lacking
}

// mostStays is how many times in a room are kept of a profile. A version before kept one
// more, and did not say what it had cut.
const mostStays = 31

func groupOf(room event.Room) string { return string(room.Kind) + ":" + room.ID }

func roomOf(group string) event.Room {
	kind, id, ok := strings.Cut(group, ":")
	if !ok {
		return event.Room{}
	}
	return event.Room{Kind: event.TargetKind(kind), ID: id}
}

// roomChange is rows of one room that were changed together, or a part of them.
type roomChange struct {
	room    event.Room
	version uint64 // the room's own place; 0: it is not among them
	life    string // of the history
	place   uint64 // in it, before which they hold not yet
	changed []room.Membership
	last    uint64 // row
}
