package room

import (
	"context"
	"math"
	"net/http"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
)

// Errors of membership, each with what it is answered with.
var (
	ErrMembership = problem.New("the membership service does not answer", problem.Problem{Status: http.StatusServiceUnavailable, Code: "MembershipUnavailable", Detail: "the membership service does not answer; nothing was stored"})
	ErrExternal   = problem.New("membership is owned by the membership service", problem.Problem{Status: http.StatusConflict, Code: "MembershipExternal"})
	ErrNoService  = problem.New("this hub keeps membership itself: there is no membership service to ask", problem.Problem{Status: http.StatusConflict, Code: "MembershipNotExternal"})

	ErrMemberships = problem.New("this tenant has as many memberships as REALTIME_MAX_MEMBERSHIPS_PER_TENANT allows; remove some", problem.Problem{Status: http.StatusConflict, Code: "TooManyMemberships"})
)

// ErrConflict: somebody else has changed the room at the same time.
var ErrConflict = problem.New("the room was changed by another call at the same time", problem.Problem{Status: http.StatusServiceUnavailable, Code: "Unconfirmed",
	Detail: "the store did not confirm in time, so it is not known whether this was stored; send it again, an event with the same id"})

// Membership is what is kept of one profile in one room.
type Membership struct {
	Profile event.Profile
	Member  bool
	Stays   []history.Stay // oldest first; of a member the last is without end
	Forgot  uint64         // stays that ended up to this place may be lacking
}

// Restarted is what is known of it in another history than that of its places.
func (m Membership) Restarted(room event.Room) Membership {
	m.Stays, m.Forgot = nil, 0
	if m.Member {
		m.Stays = []history.Stay{{Room: room, From: 0, Until: math.MaxUint64}}
	}
	return m
}

// Shared keeps who belongs where for all hubs of a cluster. A hub that is alone
// keeps it by itself (nil).
type Shared interface {
	// Follow sets the callbacks. belong is called with all memberships of a tenant before
	// Attach returns, then with each change, in order, and with the history that the places
	// belong to. After forget the tenant has none, until belong is called again.
	Follow(belong func(tenant string, of history.Epoch, room event.Room, changed []Membership), forget func(tenant string))
	Attach(ctx context.Context, tenant string) error
	Detach(tenant string)
	// Now is what is to be known before a room is changed.
	Now(ctx context.Context, tenant string, room event.Room) (State, error)
	// Change stores changes of a room that was in a state; empty says that the room then has
	// no members. It returns when all hubs know the change. ErrConflict says that the room has
	// another version, which this hub knows by then, or that the history is another.
	Change(ctx context.Context, tenant string, room event.Room, was State, changed []Membership, empty bool) error
	// Sure returns when this hub knows every change that was made on any hub before the call:
	// at once, unless the other hubs may have given this one up. ErrUnconfirmed says that it
	// could not find out.
	Sure(ctx context.Context) error
}

// State is where a tenant's history is, and which version of a room is known here.
type State struct {
	Now     history.Cursor
	Version uint64
}
