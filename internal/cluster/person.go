package cluster

import "realtimehub/internal/event"

// person is somebody who has connections on other hubs.
type person struct {
	ref    event.Profile
	open   int      // connections
	latest *session // the first of them: none was active later
}

// session is a connection that another hub holds.
type session struct {
	who        *person
	prev, next *session // of the same person
	activeAt   int64    // Unix nanoseconds
}

// Key implements sized.Keyed.
func (p *person) Key() event.Profile { return p.ref }

// add adds a session.
func (p *person) add(s *session) {
	p.open++
	if p.latest == nil {
		p.latest = s
		return
	}
	first := p.latest
	s.prev, s.next = first, first.next
	if s.next != nil {
		s.next.prev = s
	}
	first.next = s
	p.rise(s)
}

// remove removes a session. Only where it was the latest the others are looked at.
func (p *person) remove(s *session) {
	p.open--
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

// used notes the activity of a session, unless a later one is known.
func (p *person) used(s *session, at int64) {
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
