package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// Errors of questions to other hubs. Of one that does not answer nothing is known.
var (
	ErrElsewhere = errors.New("there is no such hub")
)

// Session is an open connection as the other hubs know it.
type Session struct {
	ID          uuid.UUID
	Profile     event.Profile
	ConnectedAt time.Time
	ActiveAt    time.Time // by this hub's clock, wherever it is
	Drained     bool      // its hub has sent it away: it will be back
	Client      string    // of a connection whose client asks again and again, if that has a name
	AskedAt     time.Time // when it last did, by this hub's clock
}

// SessionChange is a session that came or changed, or with Gone set one that went.
type SessionChange struct {
	Session
	Gone bool
}

// Typing is somebody's typing in a conversation.
type Typing struct {
	Profile      event.Profile
	Conversation string
	Started      bool
}

// CallOp is what one hub asks of another.
type CallOp string

// The calls there are.
const (
	CallShow    CallOp = "show"    // one connection
	CallList    CallOp = "list"    // a page of a tenant's connections, or a profile's
	CallTouch   CallOp = "touch"   // one is active
	CallProlong CallOp = "prolong" // one ends at another time
	CallAdjust  CallOp = "adjust"  // one has another filter or watch list
	CallKick    CallOp = "kick"    // one is closed
	CallKickAll CallOp = "kickall" // some of a tenant's, or of a profile's, are closed
	CallSay     CallOp = "say"     // one's client is answered on its stream
	CallPoll    CallOp = "poll"    // one's client, which polls, is told what there is, or that is over
	CallAck     CallOp = "ack"     // one's client has handled what it was sent
	CallSettle  CallOp = "settle"  // what clients have acknowledged is kept for all hubs
	CallExplain CallOp = "explain" // why an event did not reach some profiles
	CallCount   CallOp = "count"   // how many connections events are for
	CallRooms   CallOp = "rooms"   // a tenant's membership is known up to a place of its own
	CallRefresh CallOp = "refresh" // a room's membership is asked anew of the service that owns it
)

// Call is what one hub asks of another; which fields, says Op. What nil and what empty
// means differs, and both have to arrive: an omitted pointer is nil, a list never null.
type Call struct {
	Op      CallOp
	ID      uuid.UUID            `json:",omitzero"`
	Lately  bool                 `json:",omitzero"` // also one that has ended a moment ago and owed an acknowledgement
	Tenant  string               `json:",omitzero"`
	Profile *event.Profile       `json:",omitzero"`
	Room    event.Room           `json:",omitzero"`
	Expires time.Time            `json:",omitzero"` // zero: not by itself
	Types   *[]string            `json:",omitzero"` // nil: as it is
	Watch   *[]event.Profile     `json:",omitzero"` // nil: as it is
	Unwatch bool                 `json:",omitzero"` // to watch as configured; a hub that knows it says so
	After   string               `json:",omitzero"` // the id that a page comes after
	Limit   int                  `json:",omitzero"` // of a page; 0: none, and no hub asks so but those of the version before
	Reason  delivery.CloseReason `json:",omitzero"`
	Place   uint64               `json:",omitzero"`
	Life    string               `json:",omitzero"` // of the table that the place is in; empty: not told, by the version before
	Cursor  string               `json:",omitzero"` // up to which something was handled
	Records []byte               `json:",omitzero"` // that a client is answered
	Wait    time.Duration        `json:",omitzero"` // that a poll may take; 0: it is the last; less: nothing is taken
	Sent    *delivery.Sent       `json:",omitzero"`
	Of      []event.Profile      `json:",omitzero"`
	Events  []json.RawMessage    `json:",omitzero"` // without what is not asked of them, as they are stored
}

// Answer is the other hub's.
type Answer struct {
	Found       bool           // the connection is there, if it is about one, and it is done
	Full        bool           // it is there, and a share is used up that this would have been taken of
	Person      bool           `json:",omitzero"` // the share is the person's, not the tenant's
	Unwatched   bool           `json:",omitzero"` // Unwatch was understood
	Acks        Acks           `json:",omitzero"` // what came of an acknowledgement; empty: it was not understood, by the version before
	Why         []delivery.Why `json:",omitzero"` // of each profile that was asked of
	Each        []int          `json:",omitzero"` // how many connections each has that was asked of; of events nil by the version before
	Records     []byte         `json:",omitzero"` // that a poll is answered; none: there were none, or Over
	Over        bool           `json:",omitzero"` // the poll is the last
	Connections []Described
	Count       *int `json:",omitzero"` // how many there are, whatever the page; nil: these are all, of the version before
	More        bool `json:",omitzero"` // the page ends before they do
}

// Acks says what came of an acknowledgement.
type Acks string

// What can come of it.
const (
	AcksTaken   Acks = "taken"
	AcksUnknown Acks = "unknown" // its cursor is of another history
	AcksPast    Acks = "past"    // it is past what the connection was sent
)

// Described is a connection with all that is told of it.
type Described struct {
	ID          uuid.UUID
	Tenant      string
	Profile     event.Profile
	ConnectedAt time.Time
	ActiveAt    time.Time
	Metadata    map[string]string  `json:",omitzero"`
	Transport   delivery.Transport `json:",omitzero"` // empty: not told, by the version before, which has SSE only
}

// Peers are the other hubs of a cluster. A hub that is alone has none (nil).
type Peers interface {
	// Follow names who is told of the others, before anything is.
	Follow(Sink)
	// Node is this hub's mark in the ids of its connections.
	Node() [4]byte
	// Hears says whether this hub is in touch with the broker, so that it hears the others,
	// and they have told it what it had missed.
	Hears() bool
	// Away is how often this hub was away, so that others may have given it up.
	Away() int64
	// Others are those that are there, as far as is known.
	Others() [][4]byte
	// Known are the others, and those that were given up lately since they were silent, and
	// may be back: as of one moment, so that none is missed that goes from one list to the other.
	Known() (others, lost [][4]byte)
	// Tell tells the others of a session of this hub's.
	Tell(tenant string, c SessionChange)
	// Hold has the sink told of all sessions that others have of a tenant; those there
	// are when it returns, unless one does not answer: Complete says so. Release ends it.
	Hold(ctx context.Context, tenant string) error
	Complete(ctx context.Context, tenant string) bool
	Release(tenant string)
	// Cast tells the others who hold a tenant of somebody's typing.
	Cast(tenant string, t Typing)
	// Ask has the hub with a mark answer, within a second: ErrElsewhere, ErrSilent.
	Ask(ctx context.Context, node [4]byte, c Call) (Answer, error)
	// AskAll has all others answer, at once or as long as ctx allows; those that do not
	// are in silent.
	AskAll(ctx context.Context, c Call) (answers []Answer, silent []string)
}

// Sink is who is told of other hubs.
type Sink interface {
	// Sessions are this hub's own of a tenant; Any says whether there are any.
	Sessions(tenant string) []Session
	Any(tenant string) bool
	// Changed is told of others' sessions: known, of what there was when the tenant was
	// held; at is when those went that went with their hub.
	Changed(tenant string, changes []SessionChange, known bool, at time.Time)
	// Has are the sessions of another hub that are known by what Changed was told.
	Has(tenant string, hub [4]byte) []uuid.UUID
	// Typed is told of typing that another hub was told of.
	Typed(tenant string, t Typing)
	// Serve answers a call.
	Serve(c Call) Answer
}
