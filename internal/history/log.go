package history

import (
	"context"
	"errors"
	"net/http"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/sized"
)

// Errors of a place in a history: why a reader may not go on there as if nothing had happened.
var (
	ErrExpired       = errors.New("the history no longer reaches back to this cursor")
	ErrUnknownCursor = errors.New("this cursor does not belong to this history")
	ErrRoomUnknown   = errors.New("the members of a room are not known yet")
)

// Errors of a Log that a broker keeps.
var (
	// ErrUnconfirmed says that it is not known whether events were stored. Sending them again
	// with the same ids tells.
	ErrUnconfirmed = problem.New("the store did not confirm in time", problem.Problem{Status: http.StatusServiceUnavailable, Code: "Unconfirmed", Detail: "the store did not confirm in time, so it is not known whether this was stored; send it again, an event with the same id", Asked: errBroker})
	// ErrNotStored says that nothing was stored.
	ErrNotStored = problem.New("the store refused the write, and nothing was stored", problem.Problem{Status: http.StatusServiceUnavailable, Code: "NotStored"})
	// ErrTooLarge says that nothing was stored, nor ever will be.
	ErrTooLarge = problem.New("the event is larger than the store accepts", problem.Problem{Status: http.StatusRequestEntityTooLarge, Code: "EventTooLarge"})
)

// errBroker is the answer to a request that only reads, which stores nothing to be confirmed.
var errBroker = &problem.Problem{Status: http.StatusServiceUnavailable, Code: "BrokerUnavailable", Detail: "the store does not answer; ask again"}

// UnconfirmedError is an ErrUnconfirmed that names its events, in their order.
type UnconfirmedError struct {
	ids []string
	err error
}

// NewUnconfirmed says that events with these ids were not confirmed. Its cause is an
// ErrUnconfirmed.
func NewUnconfirmed(ids []string, err error) *UnconfirmedError { return &UnconfirmedError{ids, err} }

func (u *UnconfirmedError) Error() string { return u.err.Error() }

func (u *UnconfirmedError) Unwrap() error { return u.err }

// EventIDs are the ids of the events that may have been stored.
func (u *UnconfirmedError) EventIDs() []string { return u.ids }

// Part is the error of one of the events alone.
func (u *UnconfirmedError) Part(i int) *UnconfirmedError {
	return &UnconfirmedError{u.ids[i : i+1], u.err}
}

// Entry is one event on its way through a Log. The publisher sets the first group, the Log
// the second, the Sink the third.
type Entry struct {
	Event    *event.Event
	Envelope []byte // as its recipients see it
	Chosen   bool   // its publisher chose its id, so a repeat is recognised
	Here     bool   // it was published to this hub, whose clock its timestamp is by

	Cursor    Cursor    // its place; a duplicate's is the first's; zero where it is not stored
	Duplicate bool      // nothing was stored or handed over
	FirstAt   time.Time // a duplicate's: the first's timestamp

	Reached    int32           // connections
	Members    int32           // of the room that it is for
	Recipients []event.Profile // likewise, who they are, of an event with a deadline that was published here

	people *people // whom it names, where they are many; nil: not made yet
}

// entryBytes is the memory that an entry and its event take beside what they are made of, as
// measured.
const entryBytes = 416

// size is the memory that a stored entry takes, in bytes, without its places in lists.
func (e *Entry) size() int64 {
	n := entryBytes + sized.Block(cap(e.Envelope))
	if e.people != nil {
		return n + e.people.weight
	}
	return n + e.Event.Weight()
}

// storedSize is the size of those entries that are to be stored.
func storedSize(entries []*Entry) (bytes int64) {
	for _, e := range entries {
		if e.Event.Stored() {
			bytes += e.size()
		}
	}
	return bytes
}

// Sink is handed what a Log accepts.
type Sink interface {
	// Deliver is called in the tenant's one order, with what was appended together. It
	// neither waits nor calls the Log.
	Deliver(tenant string, entries []*Entry)
	// Flush is called after each Deliver, when nobody else waits for it to end.
	Flush(tenant string)
	// Prepare is called before Deliver with what other hubs appended, if the Log was made to
	// do so. It may wait.
	Prepare(tenant string, entries []*Entry)
	// Quiet says that a tenant has nothing else up to a place.
	Quiet(tenant string, place Cursor)
	// Lost says that what came next cannot be had. The next entry follows on a place.
	Lost(tenant string, place Cursor)
}

// Log orders, recognises and keeps the events of every tenant. One that a broker keeps for
// several hubs hands what any of them appends to the sinks of all; its calls may wait and fail.
type Log interface {
	// Follow adds a sink. It is called before anything else.
	Follow(Sink)
	// Append takes entries, all or none. One whose chosen id is known from within the window
	// becomes a duplicate. The others of a tenant are handed to the sinks together, in the
	// order given; those that are stored get consecutive places.
	Append(ctx context.Context, entries []*Entry) error
	// Attach returns the head of a tenant's history, and promises the sinks all that comes
	// after it.
	Attach(ctx context.Context, tenant string) (head Cursor, err error)
	// Detach ends the promise of one Attach.
	Detach(tenant string)
	// Find returns the place of a cursor's text, after which nothing for a reader is missing;
	// a nil reader reads everything, an empty text is the oldest place. With ErrExpired
	// something is missing, and the oldest place is returned; with ErrUnknownCursor the text
	// is no place, and the head is returned.
	Find(ctx context.Context, tenant, cursor string, r *Reader) (Cursor, error)
	// Read answers a Query, in time that depends on what it finds and not on what is kept.
	// With ErrExpired something for its reader is missing, and the page's Next is the oldest
	// place, from where to go on.
	Read(ctx context.Context, tenant string, q Query) (Page, error)
	// Ready says why nothing can be stored now; nil when it can.
	Ready() error
	// Sweep forgets what has grown old. It is called now and then.
	Sweep(now time.Time)
	// Held is the memory that histories take in this process, in bytes.
	Held() int64
	// Stats tells what is kept.
	Stats() Stats
}

// Stats is what a Log keeps, and what has gone wrong since the start.
type Stats struct {
	Tenants int
	Entries int
	Bytes   int64 // of the entries, as counted against the limits; a broker counts its own
	Limit   int64 // of Bytes; 0: none
	Memory  int64 // bytes that histories take in this process
	IDs     int   // that would be recognised
	LostIDs int   // forgotten before their window was over

	CutTenant int64 // entries that went before their time since their tenant had too many bytes
	CutAll    int64 // likewise since all tenants had, and theirs had most

	Unknown bool            // nobody answers what is kept
	Unsent  int             // ephemeral events that other hubs could not be told of
	Unread  int             // what other hubs stored and this one cannot read as an event
	Gone    map[Kept]int64  // how often this hub learned that the broker had lost it
	Faults  map[Fault]int64 // how often it met what was wrong with the broker
}

// Kept is something that a broker keeps for all hubs.
type Kept string

// All that a broker keeps.
const (
	KeptHistory Kept = "history"
	KeptEpoch   Kept = "epoch" // and the secret of cursors
	KeptMembers Kept = "membership"
)

// Fault is something that is wrong with a broker.
type Fault string

// All faults that are told apart.
const (
	FaultHistory    Fault = "history"    // it could not be changed
	FaultMembership Fault = "membership" // it could not be changed
	FaultRefused    Fault = "refused"    // a server did not take the hub's credentials
	FaultMoved      Fault = "moved"      // a server could do nothing, and the hub has moved to another
	FaultUnread     Fault = "unread"     // what another hub kept or told is not understood: two versions
	FaultOther      Fault = "other"      // the log says which
)
