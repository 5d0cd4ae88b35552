package room

import (
	"context"
	"time"

	"realtimehub/internal/event"
)

// Resolver asks whoever owns membership. It may wait; the hub calls it with no
// lock held. A nil Roster means that the hub's own rooms are the truth.
type Resolver interface {
	Resolve(ctx context.Context, tenant string, room event.Room) (*Roster, error)
}

// Refresher is a Resolver that keeps answers.
type Refresher interface {
	// Away names, before anybody asks, what counts how often this hub was away: what was
	// answered before may have been refreshed meanwhile, and is asked for again.
	Away(times func() int64)
	// Refresh is Resolve with an answer to a question that is asked from now on.
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
	Asked   uint64 // of two answers the one with less was asked for before
}

// Before says whether r was asked for before another answer.
func (r *Roster) Before(other *Roster) bool { return r.Asked < other.Asked }

// ResolvedTTL is how long an unused answer of a Resolver is kept for deliveries.
const ResolvedTTL = time.Hour
