package delivery

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/due"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
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
	// Ended says what a connection had been sent and not acknowledged as it ended.
	Ended(sent duty.Acknowledgement)
	// Resumed says that a client has come back which had everything up to back.UpTo that its
	// connection before was sent. others is what the person's open connections were sent: the
	// end of the one before may not have been noticed yet.
	Resumed(back duty.Acknowledgement, others []duty.Acknowledgement)
}

// acks is what a connection whose client acknowledges has been sent, and owes. The tenant's lock
// guards it.
type acks struct {
	conn     *Connection // static
	timeouts *timeouts   // static
	due      due.Item    // the timeouts' own
	spans    []span      // that are not acknowledged, the oldest first
	owed     []owed      // likewise
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
	until time.Time // the last of their deadlines
}

// ackEvery is how often a client is to acknowledge, at most.
const ackEvery = time.Second

// owedTogether is how exactly it is known since when something is owed, so that little is kept
// of much.
const owedTogether = time.Second

// acksBytes is what is kept of each connection whose client acknowledges.
const acksBytes = 320

// beginLocked says after which place a connection is sent everything.
func (a *acks) beginLocked(after uint64) {
	a.spans = []span{{after: after, filter: a.conn.filter}}
}

// turnLocked says that a connection has another filter, or is not sent what is between two
// places.
func (a *acks) turnLocked(until, after uint64) {
	a.spans[len(a.spans)-1].until = until
	a.spans = append(a.spans, span{after: after, filter: a.conn.filter})
	if a.spans[0].until <= a.spans[0].after { // nothing was sent with it
		a.spans = a.spans[1:]
	}
	if len(a.spans) > mostSpans {
		a.spans = a.spans[1:]
	}
}

// mostSpans is how many spans of a connection are kept: of what was before, an acknowledgement
// is not one.
const mostSpans = 64

// owe notes that an event with a deadline was sent.
func (a *acks) owe(place uint64, deadline, now time.Time) {
	if n := len(a.owed); n > 0 && now.Sub(a.owed[n-1].sent) < owedTogether {
		last := &a.owed[n-1]
		last.place = place
		if deadline.After(last.until) {
			last.until = deadline
		}
		return
	}
	a.owed = append(a.owed, owed{place, now, deadline})
}

// sentLocked is what was sent up to a place, as acknowledgements of it.
func (a *acks) sentLocked(of history.Epoch, upTo uint64) (list []duty.Acknowledgement) {
	if len(a.owed) == 0 {
		return nil // nothing of it has a deadline
	}
	for _, s := range a.spans {
		until := upTo
		if s.until > 0 {
			until = min(until, s.until)
		}
		if s.after < until {
			list = append(list, duty.Acknowledgement{
				Tenant: a.conn.Tenant, Profile: a.conn.Profile, Connection: a.conn.ID,
				Of: of.Tag, After: s.after, UpTo: until, Types: s.filter, Until: a.owed[len(a.owed)-1].until,
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
	c.acks.owe(place, e.Timestamp.Add(e.Deadline), time.Now())
	c.acks.timeouts.await(c.acks)
}

// beginAcksLocked has a connection be sent everything after a place. Its client has
// acknowledged what it had up to there.
func (s *Streams) beginAcksLocked(t *tenant, c *Connection, resume Resume, from history.Cursor) {
	c.acks.beginLocked(from.Seq)
	if resume != ResumeComplete {
		return // what the client had is not known
	}
	var others []duty.Acknowledgement
	for _, other := range t.rooms.Person(c.Profile).Conns() {
		if other != c && other.acks != nil {
			others = append(others, other.acks.sentLocked(from.Epoch, other.place)...)
		}
	}
	back := duty.Acknowledgement{Tenant: c.Tenant, Profile: c.Profile, Connection: c.ID, Of: from.Epoch.Tag, UpTo: from.Seq, Types: c.filter}
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
	return true, c.acknowledge(t.head.Epoch, cursor, s.duties)
}

// acknowledge says that c's client has handled everything that c was sent up to a cursor.
func (c *Connection) acknowledge(of history.Epoch, cursor string, duties Duties) error {
	at, ok := of.Parse(cursor)
	switch {
	case !ok:
		return ErrUnknownPlace
	case at.Seq > c.place:
		return ErrPastPlace
	case c.acks == nil:
		return nil // it owes nothing
	}
	for _, a := range c.acks.sentLocked(of, at.Seq) {
		duties.Acknowledge(a)
	}
	c.acks.acknowledgedLocked(at.Seq)
	return nil
}

// endedLocked tells what a connection has been sent and owes, as it ends.
func (s *Streams) endedLocked(t *tenant, c *Connection) {
	if c.acks == nil {
		return
	}
	s.timeouts.forget(c.acks)
	for _, a := range c.acks.sentLocked(t.head.Epoch, c.place) {
		s.duties.Ended(a)
	}
	if len(c.acks.owed) > 0 {
		s.lately.add(ended{c, t.head.Epoch, time.Now()})
	}
}

// unacked ends a connection that has owed an acknowledgement for too long, and says when to
// look again if it has not.
func (s *Streams) unacked(a *acks) {
	c := a.conn
	s.removeIf(c, CloseUnacked, func() bool {
		now := time.Now()
		for len(a.owed) > 0 && a.owed[0].until.Before(now) { // it has been reported
			a.owed = a.owed[1:]
		}
		if len(a.owed) > 0 && now.Sub(a.owed[0].sent) >= s.timeouts.after {
			return true
		}
		if len(a.owed) > 0 {
			s.timeouts.await(a)
		}
		return false
	})
}

// Lately finds a connection that has ended a moment ago and owed an acknowledgement, which may
// be on its way: a page that is closed sends its last word beside the end of its stream.
func (s *Streams) Lately(id string) *Connection {
	parsed, err := ParseID(id)
	if err != nil {
		return nil
	}
	return s.lately.find(parsed)
}

// lately are connections that have ended.
type lately struct {
	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	list []ended // the oldest first
}

type ended struct {
	conn *Connection // guarded by lately.mu since
	of   history.Epoch
	at   time.Time
}

// Bounds of what is kept of connections that have ended.
const (
	latelyTime = 10 * time.Second
	mostLately = 1000
)

func (l *lately) add(e ended) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
	l.sweepLocked()
}

func (l *lately) find(id uuid.UUID) *Connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.findLocked(id).conn
}

// findLocked is the zero value where there is none.
func (l *lately) findLocked(id uuid.UUID) ended {
	l.sweepLocked()
	for _, e := range l.list {
		if e.conn.ID == id {
			return e
		}
	}
	return ended{}
}

// acknowledge is Streams.Acknowledge of a connection that has ended.
func (l *lately) acknowledge(c *Connection, cursor string, duties Duties) (found bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.findLocked(c.ID)
	if e.conn == nil {
		return false, nil
	}
	return true, c.acknowledge(e.of, cursor, duties)
}

// sweepLocked forgets those that ended too long ago, or are too many.
func (l *lately) sweepLocked() {
	now, n := time.Now(), 0
	for n < len(l.list) && (now.Sub(l.list[n].at) > latelyTime || len(l.list)-n > mostLately) {
		n++
	}
	l.list = slices.Delete(l.list, 0, n)
}

// timeouts finds connections that have owed an acknowledgement for too long.
type timeouts struct {
	after time.Duration // static; 0: none is ended
	end   func(*acks)   // static; called with no lock held

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	due   due.Queue[*acks]
	timer *time.Timer // nil before the first
}

// await looks at a connection once the first of what it owes could be owed for too long. The
// tenant is locked.
func (t *timeouts) await(a *acks) {
	if t.after == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.due.At().IsZero() {
		t.due.Set(a, a.owed[0].sent.Add(t.after))
		t.armLocked()
	}
}

// forget has a connection looked at no more.
func (t *timeouts) forget(a *acks) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due.Set(a, time.Time{})
}

func (t *timeouts) armLocked() {
	if t.due.Len() == 0 {
		return
	}
	_, at := t.due.First()
	if wait := time.Until(at); t.timer == nil {
		t.timer = time.AfterFunc(wait, t.fire)
	} else {
		t.timer.Reset(wait)
	}
}

func (t *timeouts) fire() {
	now := time.Now()
	var come []*acks
	t.mu.Lock()
	for next, ok := t.due.Next(now); ok; next, ok = t.due.Next(now) {
		t.due.Set(next, time.Time{})
		come = append(come, next)
	}
	t.armLocked()
	t.mu.Unlock()
	fair.ForEach(len(come), func(i int) { t.end(come[i]) })
}
