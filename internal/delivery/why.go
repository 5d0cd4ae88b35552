package delivery

import (
	"slices"

	"github.com/google/uuid"

	"realtimehub/internal/event"
)

// Why says, for people, why an event did not reach somebody, or did; the word is the
// contract's.
type Why string

// The reasons there are, the more telling first.
const (
	WhySentUnacknowledged Why = "sentUnacknowledged" // a connection was sent it
	WhyBehind             Why = "behind"             // a connection is still being sent what it missed
	WhyFiltered           Why = "filtered"           // no connection wants its type
	WhyExcluded           Why = "excluded"           // the target leaves them out
	WhyJoinedLater        Why = "joinedLater"        // all connections began after it
	WhyNoConnection       Why = "noConnection"
	WhyNotAMember         Why = "notAMember"
	WhyNotATarget         Why = "notATarget"
	WhyUnknown            Why = "unknown" // another hub that may know does not answer
)

var whys = []Why{WhySentUnacknowledged, WhyBehind, WhyFiltered, WhyExcluded, WhyJoinedLater, WhyNoConnection}

// Telling is the more telling of two reasons.
func Telling(a, b Why) Why {
	if slices.Index(whys, a) <= slices.Index(whys, b) {
		return a
	}
	return b
}

// Sent is a stored event, as far as it matters whom it was sent to.
type Sent struct {
	Type     string
	Place    uint64
	Excluded []uuid.UUID // connections
}

// Explain says of each of some profiles why an event did not reach those of its connections
// that are here, and how many these are. It is for whom the event was.
func (s *Streams) Explain(tenant string, profiles []event.Profile, e Sent) (why []Why, connections []int) {
	why, connections = make([]Why, len(profiles)), make([]int, len(profiles))
	t := s.tenants.find(tenant)
	for i, ref := range profiles {
		why[i] = WhyNoConnection
		if t == nil {
			continue
		}
		for _, c := range t.connsLocked(ref) {
			connections[i]++
			t.hearLocked(c)
			why[i] = Telling(why[i], c.whyLocked(e))
		}
	}
	if t != nil {
		t.mu.Unlock()
	}
	return why, connections
}

// whyLocked says why a connection has not been sent an event, or that it has.
func (c *Connection) whyLocked(e Sent) Why {
	switch {
	case slices.Contains(e.Excluded, c.ID):
		return WhyExcluded
	case e.Place <= c.begun:
		return WhyJoinedLater
	case !c.filter.Wants(e.Type):
		return WhyFiltered
	case e.Place > c.place:
		return WhyBehind
	}
	return WhySentUnacknowledged
}
