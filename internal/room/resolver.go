package room

import (
	"context"
	"slices"
	"time"
	"unsafe"

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
	Members []event.Profile // sorted
	Asked   uint64          // the number of the question: the answer with the higher one is newer
	bytes   int64           // of memory that the members take
}

// then is the answer after r, which may be nil. It has r's list where nothing has changed, and
// sorts the new one.
func (r *Roster) then(members []event.Profile, asked uint64) *Roster {
	slices.SortFunc(members, event.CompareProfiles)
	if r != nil && slices.Equal(r.Members, members) {
		return &Roster{Members: r.Members, Asked: asked, bytes: r.bytes}
	}
	next := &Roster{Members: members, Asked: asked}
	for _, p := range members {
		next.bytes += int64(memberBytes + len(p.Type) + len(p.ID))
	}
	return next
}

// Same says that two answers have one list, as they have where nothing has changed. It looks at
// no member.
func (r *Roster) Same(other *Roster) bool {
	return len(r.Members) == len(other.Members) && unsafe.SliceData(r.Members) == unsafe.SliceData(other.Members)
}

// Differ says who has joined since another answer and who has left.
func (r *Roster) Differ(before *Roster) (join, leave []event.Profile) {
	is, was := r.Members, before.Members
	for len(is) > 0 && len(was) > 0 {
		switch order := event.CompareProfiles(is[0], was[0]); {
		case order < 0:
			join, is = append(join, is[0]), is[1:]
		case order > 0:
			leave, was = append(leave, was[0]), was[1:]
		default:
			is, was = is[1:], was[1:]
		}
	}
	return append(join, is...), append(leave, was...)
}

// Has says whether somebody is a member.
func (r *Roster) Has(p event.Profile) bool {
	_, is := slices.BinarySearchFunc(r.Members, p, event.CompareProfiles)
	return is
}

// Before says whether r was asked for before another answer.
func (r *Roster) Before(other *Roster) bool { return r.Asked < other.Asked }

// ResolvedTTL is how long an unused answer of a Resolver is kept for deliveries.
const ResolvedTTL = time.Hour
