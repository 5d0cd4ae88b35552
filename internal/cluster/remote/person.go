package remote

import (
	"math"

	"realtimehub/internal/event"
)

// person is somebody who has connections on other hubs. Most have one, so the first takes no
// session of its own.
type person struct {
	name    *event.ProfileText // presence's own: it is kept once
	firstAt int64              // when the first connection was last active, in Unix nanoseconds; none: it has gone
	latest  *session           // the first in the list of the others: none of them was active later
	open    int                // connections
}

// session is a connection that another hub holds, beside its person's first.
type session struct {
	who        *person
	prev, next *session // of the same person
	activeAt   int64    // Unix nanoseconds
}

// none is earlier than any activity.
const none = math.MinInt64

// Key implements sized.Keyed.
func (p *person) Key() event.Profile { return p.name.Profile() }

// usedAt is when the connection that was active last was; none: there is no connection.
func (p *person) usedAt() int64 {
	if p.latest == nil {
		return p.firstAt
	}
	return max(p.firstAt, p.latest.activeAt)
}

// add adds a connection; the session is nil where that is the first.
func (p *person) add(at int64) *session {
	p.open++
	if p.firstAt == none {
		p.firstAt = at
		return nil
	}
	s := &session{who: p, activeAt: at}
	first := p.latest
	if first == nil {
		p.latest = s
		return s
	}
	s.prev, s.next = first, first.next
	if s.next != nil {
		s.next.prev = s
	}
	first.next = s
	p.rise(s)
	return s
}

// remove removes a session, or with nil the first connection. Only where the session was the
// latest the others are looked at.
func (p *person) remove(s *session) {
	p.open--
	if s == nil {
		p.firstAt = none
		return
	}
	if s != p.latest {
		s.unlink()
		return
	}
	p.latest = s.next
	s.unlink()
	for other := p.latest; other != nil; {
		next := other.next
		p.rise(other)
		other = next
	}
}

// used notes the activity of a session, or with nil of the first connection, unless a later one
// is known.
func (p *person) used(s *session, at int64) {
	if s == nil {
		p.firstAt = max(p.firstAt, at)
		return
	}
	s.activeAt = max(s.activeAt, at)
	p.rise(s)
}

// rise puts a session first, unless the first was active later.
func (p *person) rise(s *session) {
	first := p.latest
	if s == first || s.activeAt < first.activeAt {
		return
	}
	s.unlink()
	s.next, first.prev, p.latest = first, s, s
}

// unlink takes s out of its list.
func (s *session) unlink() {
	if s.prev != nil {
		s.prev.next = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
}
