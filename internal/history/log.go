package history

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/sized"
)

// Errors of a Log: they say why a place in the history is not where a reader may
// go on as if nothing had happened.
var (
	ErrExpired       = errors.New("the history no longer reaches back to this cursor")
	ErrUnknownCursor = errors.New("this is no cursor of this history")
	ErrRoomUnknown   = errors.New("nobody has said yet who belongs to a room")
)

// Errors of a Log that a broker keeps.
var (
	// ErrUnconfirmed: it may have been stored; the same ids again tell.
	ErrUnconfirmed = problem.New("the broker did not confirm in time", problem.Problem{Status: http.StatusServiceUnavailable, Code: "Unconfirmed", Detail: "the broker did not confirm in time; it may have been stored: send it again with the same id, and the answer tells", Asked: errBroker})
	// ErrNotStored: the broker says that it was not.
	ErrNotStored = problem.New("the broker has not stored it", problem.Problem{Status: http.StatusServiceUnavailable, Code: "NotStored"})
	// ErrTooLarge: nor will it be.
	ErrTooLarge = problem.New("the event has more bytes than the broker takes", problem.Problem{Status: http.StatusRequestEntityTooLarge, Code: "EventTooLarge"})
)

// Entry is one event on its way through a Log, which sets the second group.
type Entry struct {
	Event    *event.Event
	Envelope []byte // as its recipients see it
	Chosen   bool   // its publisher chose its id, so a repeat is recognised
	Here     bool   // it was published to this hub, at its timestamp by this hub's own clock

	Cursor    Cursor    // its place, the first's for a duplicate; zero where it is not stored
	Duplicate bool      // nothing was stored or handed on
	FirstAt   time.Time // of a duplicate: the first's timestamp

	// Set by the Sink.
	Reached int32 // connections
	Members int32 // of the room that it is for
}

// What memory an entry and its event take beside what they are made of, as measured, and
// what one of its recipients has of a page.
const (
	entryBytes = 416
	listBytes  = 48
)

// size is the memory that a stored entry takes, in bytes, but for its places in lists.
func (e *Entry) size() int64 { return entryBytes + sized.Block(cap(e.Envelope)) + e.Event.Weight() }

// storedSize is what those entries take that are to be stored.
func storedSize(entries []*Entry) (bytes int64) {
	for _, e := range entries {
		if e.Event.Stored() {
			bytes += e.size()
		}
	}
	return bytes
}

// Sink is who is handed what a Log accepts.
type Sink interface {
	// Deliver is called in the tenant's one order, with what was appended together.
	// It neither waits nor calls the Log.
	Deliver(tenant string, entries []*Entry)
	// Flush is called after each Deliver, once nobody is kept waiting by it.
	Flush(tenant string)
	// Prepare is called before Deliver for what others appended, if the Log was made
	// so: it may wait.
	Prepare(tenant string, entries []*Entry)
	// Quiet says that a tenant has nothing else up to a place.
	Quiet(tenant string, place Cursor)
	// Lost says that what came next cannot be had: what follows comes after a place.
	Lost(tenant string, place Cursor)
}

// Reader is whose entries are read: those of a profile that may see what was
// said in its rooms while it belonged to them.
type Reader struct {
	Profile  event.Profile
	Rooms    []Stay
	AllRooms bool // whoever belongs to them: that is looked at later

	// What is not known of the time before these places: when it came to its rooms; which
	// they were.
	StaysFrom, RoomsFrom uint64
}

// wants says whether a reader is to be shown an entry; nil reads all.
func (r *Reader) wants(e *Entry) bool {
	if r == nil {
		return true
	}
	t := &e.Event.Target
	room, ok := t.Room()
	switch {
	case t.Kind == event.KindTenant:
		return true
	case !ok:
		return slices.Contains(t.Profiles, r.Profile)
	}
	return r.AllRooms || slices.ContainsFunc(r.Rooms, func(s Stay) bool {
		return s.Room == room && s.From < e.Cursor.Seq && e.Cursor.Seq <= s.Until
	})
}

// Stay is a time in a room, in places of the tenant's history: those after From,
// up to Until.
type Stay struct {
	Room        event.Room
	From, Until uint64
}

// Query asks for entries after a place, the oldest first.
type Query struct {
	After  uint64
	Until  uint64  // the last place that is read; 0: the end
	Reader *Reader // nil: all entries
	Limit  int     // entries at most; at least one is read, if there is one
	Bytes  int     // of envelopes and of whom they are for, as many entries as fit
}

// End is the last place that is read of a history that ends at a place.
func (q *Query) End(head uint64) uint64 {
	if q.Until > 0 {
		head = min(head, q.Until)
	}
	return max(q.After, head)
}

// Page is what a Query finds. Entries are shared: nobody changes them.
type Page struct {
	Entries []*Entry
	Next    Cursor // the place reached: there is nothing else up to here
}

// Size is the memory that the entries take.
func (p *Page) Size() (bytes int) {
	for _, e := range p.Entries {
		bytes += int(e.size())
	}
	return bytes
}

// More says that there may be more after the page than was asked for.
func (p *Page) More() bool {
	n := len(p.Entries)
	return n > 0 && p.Next == p.Entries[n-1].Cursor
}

// PageBuilder fills a page with what a Query asks for.
type PageBuilder struct {
	Page  Page
	query Query
	bytes int
}

// BeginPage begins a page that reaches up to a place, unless it is full before.
func BeginPage(q Query, end Cursor) PageBuilder { return PageBuilder{Page: Page{Next: end}, query: q} }

// Add adds the next entry, if the query's reader wants it; unless the page is full: then it
// ends before, and false is returned.
func (b *PageBuilder) Add(e *Entry) bool { return !b.query.Reader.wants(e) || b.add(e) }

func (b *PageBuilder) add(e *Entry) bool {
	p, q, t := &b.Page, &b.query, &e.Event.Target
	b.bytes += len(e.Envelope) + listBytes*(len(t.Profiles)+len(t.ExcludeProfiles))
	if n := len(p.Entries); n > 0 && (q.Limit > 0 && n == q.Limit || q.Bytes > 0 && b.bytes > q.Bytes) {
		p.Next = p.Entries[n-1].Cursor
		return false
	}
	p.Entries = append(p.Entries, e)
	return true
}

// Log orders, recognises and keeps the events of every tenant. A kind may keep
// them in memory, or with a broker for several hubs; then its calls may wait and
// fail, and what any hub appends goes to the sinks of all.
type Log interface {
	// Follow names one who is handed what is accepted, before anything is.
	Follow(Sink)
	// Append takes entries, all or none. One whose chosen id the window knows becomes
	// a duplicate. The others of a tenant are handed to the sinks together, in the
	// order given; those to be stored get consecutive places.
	Append(ctx context.Context, entries []*Entry) error
	// Attach tells the head of a tenant's history, and promises to the sinks all that
	// comes after it; Detach ends one such promise.
	Attach(ctx context.Context, tenant string) (head Cursor, err error)
	Detach(tenant string)
	// Find says where a cursor of any text stands: at a place after which nothing for a
	// reader is missing (nil: nothing at all); or with ErrExpired at one after which
	// something is, and the oldest place is returned; or with ErrUnknownCursor nowhere, and
	// the head is returned. Empty means the oldest place.
	Find(ctx context.Context, tenant, cursor string, r *Reader) (Cursor, error)
	// Read answers a Query, in time that depends on what it finds and not on what is
	// kept. With ErrExpired something for its reader is missing, and Next is the oldest
	// place, from where to go on.
	Read(ctx context.Context, tenant string, q Query) (Page, error)
	// Ready says why nothing can be stored now, nil when it can.
	Ready() error
	// Sweep forgets what has grown old. Called now and then.
	Sweep(now time.Time)
	// Held is how many bytes histories take in this process.
	Held() int64
	// Stats tells what is kept.
	Stats() Stats
}

// NewUnconfirmed says that events with these ids were not confirmed, for a reason that is
// an ErrUnconfirmed.
func NewUnconfirmed(ids []string, err error) *UnconfirmedError { return &UnconfirmedError{ids, err} }

// errBroker answers who only asks, and has nothing to be confirmed.
var errBroker = &problem.Problem{Status: http.StatusServiceUnavailable, Code: "BrokerUnavailable", Detail: "the broker does not answer; ask again"}

// UnconfirmedError is ErrUnconfirmed of events with these ids, in their order.
type UnconfirmedError struct {
	ids []string
	err error
}

func (e *UnconfirmedError) Error() string { return e.err.Error() }

// EventIDs are the events that may have been stored.
func (e *UnconfirmedError) EventIDs() []string { return e.ids }

// Part is the same of the event at a place among them alone.
func (e *UnconfirmedError) Part(i int) *UnconfirmedError {
	return &UnconfirmedError{e.ids[i : i+1], e.err}
}

func (e *UnconfirmedError) Unwrap() error { return e.err }
