package delivery

import (
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/due"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
)

// Errors of Acknowledge.
var (
	ErrUnknownPlace = problem.New("this cursor does not belong to the history that the connection reads", problem.Problem{Status: http.StatusConflict, Code: "UnknownCursor"})
	ErrPastPlace    = &problem.FieldError{Code: problem.CodeInvalidField, Field: "cursor", Index: -1, Detail: "is past what this connection was sent"}
)

// Duties are told what clients have acknowledged. They are called with a tenant's lock held, and
// neither wait nor call back.
type Duties interface {
	// Acknowledge takes a client's word.
	Acknowledge(a duty.Acknowledgement)
	// Ended says what a connection had been sent and not acknowledged as it ended; with no Until,
	// nothing of that has a deadline.
	Ended(sent duty.Acknowledgement)
	// Resumed says that a client has come back which had everything up to back.UpTo that its
	// connection before was sent. others is what the person's open connections were sent: the
	// end of the one before may not have been noticed yet.
	Resumed(back duty.Acknowledgement, others []duty.Acknowledgement)
}

// acks is what a connection whose client acknowledges has been sent, and owes. The tenant's lock
// guards it.
type acks struct {
	conn     *Connection   // static
	timeouts *timeouts     // static
	previous uuid.UUID     // the connection that the client comes back from, as it says; zero: it does not
	due      due.Item      // the timeouts' own
	of       history.Epoch // of the places
	spans    []span        // that are not acknowledged, the oldest first
	owed     []owed        // likewise
	only     uint64        // up to here only what was noted was sent for certain
}

func (a *acks) Due() *due.Item { return &a.due }

// span is places that a connection was sent with one filter. The last of a connection has no
// end yet.
type span struct {
	after, until uint64
	filter       *event.Filter
}

// owed is events with a deadline that were sent within owedTogether, and not acknowledged.
type owed struct {
	place uint64    // of the last
	sent  time.Time // the first
	until time.Time // the last of their deadlines, by the clocks that set them
	over  time.Time // by then the last has passed, whatever those clocks say
}

// ackEvery is how often a client is to acknowledge, at most.
const ackEvery = time.Second

// owedTogether is how exactly it is known since when something is owed, so that little is kept
// of much.
const owedTogether = time.Second

// acksBytes is what is kept of each connection whose client acknowledges.
const acksBytes = 336

// beginLocked says after which place a connection is sent everything.
func (a *acks) beginLocked(from history.Cursor) {
	a.of, a.owed, a.only = from.Epoch, nil, 0
	a.spans = []span{{after: from.Seq, filter: a.conn.filter}}
}

// turnLocked says that a connection has another filter, or is not sent what is between two
// places.
func (a *acks) turnLocked(until, after uint64) {
	a.spans[len(a.spans)-1].until = until
	a.spans = append(a.spans, span{after: max(after, a.only), filter: a.conn.filter})
	if a.spans[0].until <= a.spans[0].after { // nothing was sent with it
		a.spans = a.spans[1:]
	}
	if len(a.spans) > mostSpans {
		a.spans = a.spans[1:]
	}
}

// onlyLocked says that of what is between two places only what is noted was sent for certain.
func (a *acks) onlyLocked(after, until uint64) {
	a.turnLocked(after, until)
	a.only = until
}

// noteLocked says that an event at a place was sent, or that it was for this connection's person
// and was not.
func (a *acks) noteLocked(place uint64, sent bool) {
	last := &a.spans[len(a.spans)-1]
	switch {
	case sent && place <= a.only:
		last.after = place - 1
		a.turnLocked(place, a.only)
	case !sent && place > a.only:
		a.turnLocked(place-1, place)
	}
}

// mostSpans is how many spans of a connection are kept: of what was before, an acknowledgement
// is not one.
const mostSpans = 256

// owe notes that an event was sent which another's clock had at a time, with a deadline.
func (a *acks) owe(place uint64, at time.Time, deadline time.Duration, now time.Time) {
	next := owed{place, now, at.Add(deadline), now.Add(deadline)}
	if n := len(a.owed); n > 0 && now.Sub(a.owed[n-1].sent) < owedTogether {
		a.owed[n-1] = a.owed[n-1].and(next)
		return
	}
	a.forget(now)
	if n := len(a.owed); n == mostOwed {
		a.owed[n-2] = a.owed[n-2].and(a.owed[n-1])
		a.owed = a.owed[:n-1]
	}
	a.owed = append(a.owed, next)
}

// and is what is owed together with what was sent later.
func (o owed) and(next owed) owed {
	return owed{next.place, o.sent, later(o.until, next.until), later(o.over, next.over)}
}

// forget forgets what has been reported.
func (a *acks) forget(now time.Time) {
	for len(a.owed) > 0 && now.Sub(a.owed[0].over) > duty.Slack {
		a.owed = a.owed[1:]
	}
}

// owedSince is since when something is owed that may not have been reported yet.
func (a *acks) owedSince(now time.Time) (since time.Time, any bool) {
	for _, o := range a.owed {
		if !o.until.Before(now) {
			return o.sent, true
		}
	}
	return since, false
}

// mostOwed is how many are kept of a connection: of a client that acknowledges nothing for hours
// it is known less exactly since when.
const mostOwed = 64

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sentLocked is what was sent up to a place, as acknowledgements of it.
func (a *acks) sentLocked(upTo uint64) (list []duty.Acknowledgement) {
	if len(a.owed) == 0 {
		return nil // nothing of it has a deadline
	}
	return slices.DeleteFunc(a.spansLocked(upTo), func(a duty.Acknowledgement) bool { return a.After == a.UpTo })
}

// spansLocked is sentLocked, also where nothing has a deadline: whoever comes back with a place
// of this connection may be its client.
func (a *acks) spansLocked(upTo uint64) (list []duty.Acknowledgement) {
	var until time.Time
	for _, o := range a.owed {
		until = later(until, o.over) // that of the last sent may be long before another's
	}
	for _, s := range a.spans {
		last := upTo
		if s.until > 0 {
			last = min(last, s.until)
		}
		if s.after <= last {
			list = append(list, duty.Acknowledgement{
				Tenant: a.conn.Tenant, Profile: a.conn.Profile, Connection: a.conn.ID,
				Of: a.of.Tag, After: s.after, UpTo: last, Types: s.filter, Until: until,
			})
		}
	}
	return list
}

// acknowledgedLocked forgets what has been acknowledged.
func (a *acks) acknowledgedLocked(upTo uint64) {
	for len(a.owed) > 0 && a.owed[0].place <= upTo {
		a.owed = a.owed[1:]
	}
	for len(a.spans) > 1 && a.spans[0].until <= upTo {
		a.spans = a.spans[1:]
	}
	a.spans[0].after = max(a.spans[0].after, upTo)
}

// owe notes that a connection was sent an event with a deadline. Its tenant is locked.
func (c *Connection) owe(e *event.Event, place uint64) {
	if c.acks == nil || place == 0 {
		return
	}
	c.acks.owe(place, e.Timestamp, e.Deadline, time.Now())
	c.acks.timeouts.await(c.acks, c.acks.owed[0].sent)
}

// beginAcksLocked has a connection be sent everything after a place. With its cursor a client
// acknowledges what comes before. sent is up to where c was sent everything, if its client has asked
// again.
func (s *Streams) beginAcksLocked(t *tenant, c *Connection, resume Resume, from history.Cursor, sent uint64) {
	if had := min(sent, from.Seq); had > 0 && c.acks.of == from.Epoch {
		if resume != ResumeComplete { // its client has yet to say what it has handled
			c.acks.turnLocked(had, from.Seq)
			return
		}
		for _, a := range c.acks.sentLocked(had) {
			s.duties.Acknowledge(a)
		}
	}
	c.acks.beginLocked(from)
	if resume == ResumeComplete && c.acks.previous != c.ID {
		s.resumedLocked(t, c, c.acks.previous, from)
	}
}

// resumedLocked says that a connection's client had everything up to a place by a previous one.
func (s *Streams) resumedLocked(t *tenant, c *Connection, previous uuid.UUID, from history.Cursor) {
	if previous == uuid.Nil && s.tenants.elsewhere(c) {
		return // it may come from there, and what that was sent is not known here
	}
	var others []duty.Acknowledgement
	for _, other := range t.connsLocked(c.Profile) {
		if other != c && other.acks != nil {
			t.hearLocked(other)
			others = append(others, other.acks.spansLocked(t.sentLocked(other))...)
		}
	}
	back := duty.Acknowledgement{Tenant: c.Tenant, Profile: c.Profile, Connection: previous, Of: from.Epoch.Tag, UpTo: from.Seq, Types: c.filter}
	s.duties.Resumed(back, others)
}

// skipLocked says that a connection is not sent what is between two places.
func (c *Connection) skipLocked(after, until uint64) {
	if c.acks != nil {
		c.acks.turnLocked(after, until)
	}
}

// Acknowledge says that c's client has handled everything that c was sent up to a cursor. It
// says whether the connection was there still. ErrUnknownPlace: the cursor is of another
// history.
func (s *Streams) Acknowledge(c *Connection, cursor string) (found bool, err error) {
	t := s.tenants.find(c.Tenant)
	if t == nil || c.removed {
		if t != nil {
			t.mu.Unlock()
		}
		return s.lately.acknowledge(c, cursor, s.duties)
	}
	defer t.mu.Unlock()
	if !c.joined {
		return false, nil
	}
	t.hearLocked(c) // its client may have the place from elsewhere
	return true, c.acknowledge(t.head.Epoch, cursor, s.duties)
}

// acknowledge says that c's client has handled everything that c was sent up to a cursor.
func (c *Connection) acknowledge(of history.Epoch, cursor string, duties Duties) error {
	at, ok := of.Parse(cursor)
	switch {
	case !ok, c.acks != nil && c.acks.of != of:
		return ErrUnknownPlace
	case at.Seq > c.place:
		return ErrPastPlace
	case c.acks == nil:
		return nil // it owes nothing
	}
	for _, a := range c.acks.sentLocked(at.Seq) {
		duties.Acknowledge(a)
	}
	c.acks.acknowledgedLocked(at.Seq)
	return nil
}

// endedLocked tells what a connection has been sent and not acknowledged, as it ends.
func (s *Streams) endedLocked(t *tenant, c *Connection) {
	if c.acks == nil {
		return
	}
	s.timeouts.forget(c.acks)
	for _, a := range c.acks.spansLocked(t.sentLocked(c)) {
		s.duties.Ended(a)
	}
	if len(c.acks.owed) > 0 {
		s.lately.add(ended{conn: c, of: t.head.Epoch, at: time.Now()})
	}
}
