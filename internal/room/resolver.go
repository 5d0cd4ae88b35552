package room

import (
	"context"
	"time"

	"realtimehub/internal/event"
)

// Resolver asks whoever owns membership. It may wait, so it is called with no lock held. A
// nil Roster means that the hub itself owns the room's membership.
type Resolver interface {
	Resolve(ctx context.Context, tenant string, room event.Room) (*Roster, error)
}

// Refresher is a Resolver that keeps answers.
type Refresher interface {
	// Away is called before anything is asked, with a count of how often this hub was cut off
	// from the others. Another hub may have refreshed an answer meanwhile, so what was answered
	// before is asked for again.
	Away(times func() int64)
	// Refresh is Resolve, with the answer to a question that is asked after the call.
	Refresh(ctx context.Context, tenant string, room event.Room) (*Roster, error)
}

// Own is the Resolver of a hub that owns membership itself.
type Own struct{}

// Resolve has nothing to ask.
func (Own) Resolve(context.Context, string, event.Room) (*Roster, error) { return nil, nil }

// Roster is the membership of one room as its owner gave it. It is immutable:
// another answer is another pointer.
type Roster struct {
	Members []event.Profile
	Asked   uint64 // the number of the question: the answer with the higher one is newer
}

// Before says whether r was asked for before another answer.
func (r *Roster) Before(other *Roster) bool { return r.Asked < other.Asked }

// ResolvedTTL is how long an unused answer of a Resolver is kept for deliveries.
const ResolvedTTL = time.Hour
