package room

import (
	"slices"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sized"
)

// Key is a room and whose it is.
type Key struct {
	Tenant string
	Room   event.Room
}

// Memberships is who belongs where in one tenant, from both sides, since which place in its
// history, and who of them is connected. It has no lock: the hub's tenant guards it.
//
// A profile and a room are kept once, however many belong together, and what all of it
// takes is counted in bytes.
type Memberships[C comparable] struct {
	Moved func(event.Room, event.Profile) // is told who has joined or left; nil: nobody is

	circles sized.Table[event.Room, *circle[C]]
	people  sized.Table[event.Profile, *Person[C]]
	bonds   sized.Table[pair[C], *bond]
	past    sized.Table[belonging, []span]     // ended, and in reach of the history still
	ended   int                                // stays in past
	oldest  uint64                             // no place in past, left and cut is before it, nor
	newest  uint64                             // after it, as long as there are any
	forgot  uint64                             // stays that ended up to this place may be missing
	left    sized.Table[event.Profile, uint64] // places at which profiles last left some room
	cut     sized.Table[belonging, uint64]     // profiles in rooms whose stays may be missing up to a later place
	pruned  uint64                             // the place up to which stays may have been pruned
	unsure  uint64                             // the place up to which memberships may be forgotten
	tag     uint64                             // of the epoch that all these places belong to; 0: to any
	bytes   int64                              // of all but the tables and what ended
	endings int64                              // bytes of what ended: of past, left and cut, but for the tables
}

// circle is who belongs to one room: first those who are here.
type circle[C comparable] struct {
	room    event.Room
	members []*Person[C]
	here    int    // so many of them are
	joined  uint64 // the last place at which one of them joined
}

// Person is a profile that belongs somewhere or has connections.
type Person[C comparable] struct {
	ref     event.Profile
	conns   []C
	circles []*circle[C]
	stays   []history.Stay // of who is in many rooms, as long as they are right; nil: not known
	remains bool           // here in all its rooms, whether connected or not: there are many
}

// isHere says whether a person is among those whom events for its rooms may reach.
func (p *Person[C]) isHere() bool { return p.remains || len(p.conns) > 0 }

// pair names a bond: of this person to that circle.
type pair[C comparable] struct {
	circle *circle[C]
	person *Person[C]
}

type bond struct {
	since    uint64
	inCircle int32 // in circle.members
	inPerson int32 // in Person.circles
}

type belonging struct {
	profile event.Profile
	room    event.Room
}

// span is a Stay in a room that is known.
type span struct{ from, until uint64 }

// What is kept of a circle and of a person takes in bytes, beside names and lists.
const (
	circleBytes = 80
	personBytes = 80
	bondBytes   = 16
)

// Bytes is what all of it takes in memory.
func (m *Memberships[C]) Bytes() int64 {
	return m.bytes + m.endings + m.circles.Bytes() + m.people.Bytes() + m.bonds.Bytes() + m.past.Bytes() + m.cut.Bytes() + m.left.Bytes()
}

// JoinBytes is the memory that profiles take when they join a room, at most.
func (m *Memberships[C]) JoinBytes(room event.Room, join []event.Profile) (n int64) {
	if m.circles.Get(room) == nil {
		n += circleBytes + m.circles.Each() + sized.Text(room.ID)
	}
	for _, p := range join {
		n += bondBytes + m.bonds.Each() + 2*16
		if m.people.Get(p) == nil {
			n += personBytes + m.people.Each() + p.Bytes()
		}
	}
	return n
}

// Count is how many memberships there are now.
func (m *Memberships[C]) Count() int { return m.bonds.Len() }

// IsOf says whether the places are of a history.
func (m *Memberships[C]) IsOf(epoch history.Epoch) bool { return m.tag == epoch.Tag }

// Empty says that there is no membership, and none that has ended is remembered.
func (m *Memberships[C]) Empty() bool { return m.bonds.Len() == 0 && !m.Remembers() }

// Remembers says whether memberships that have ended are remembered.
func (m *Memberships[C]) Remembers() bool { return m.ended > 0 || m.forgot > 0 || m.cut.Len() > 0 }

// Profile is who the person is.
func (p *Person[C]) Profile() event.Profile { return p.ref }

// Conns are a person's connections, the oldest first. The slice is valid until the next change.
func (p *Person[C]) Conns() []C { return p.conns }

// Person finds somebody who belongs somewhere or is connected, or nil.
func (m *Memberships[C]) Person(ref event.Profile) *Person[C] { return m.people.Get(ref) }

// enter finds or makes a person.
func (m *Memberships[C]) enter(ref event.Profile) *Person[C] {
	p := m.people.Get(ref)
	if p == nil {
		p = &Person[C]{ref: ref}
		m.people.Put(ref, p)
		m.bytes += personBytes + ref.Bytes()
	}
	return p
}

// leave forgets a person who belongs nowhere and has no connection.
func (m *Memberships[C]) leave(p *Person[C]) {
	if len(p.conns) == 0 && len(p.circles) == 0 {
		m.people.Delete(p.ref)
		m.bytes -= personBytes + p.ref.Bytes()
	}
}

// Connect adds a connection of a profile, and returns the person.
func (m *Memberships[C]) Connect(ref event.Profile, c C) *Person[C] {
	p := m.enter(ref)
	was := p.isHere()
	sized.Push(&p.conns, c, &m.bytes)
	m.turned(p, was)
	return p
}

// Disconnect takes a connection away.
func (m *Memberships[C]) Disconnect(ref event.Profile, c C) {
	p := m.people.Get(ref)
	if i := slices.Index(p.conns, c); i >= 0 {
		copy(p.conns[i:], p.conns[i+1:]) // the oldest stays the first
		sized.Pull(&p.conns, &m.bytes)
	}
	m.turned(p, true)
	m.leave(p)
}

// turned has a person come to all its rooms, or go from them, who was here or was not.
func (m *Memberships[C]) turned(p *Person[C], was bool) {
	move := m.come
	switch is := p.isHere(); {
	case is == was:
		return
	case was:
		move = m.gone
	}
	for _, circle := range p.circles {
		move(circle, p)
	}
}

// remain has a person be here or not by how many rooms it has. Who has many is not entered in each
// with a connection: an event for one of them finds that there is none. It turns at half as many,
// so that who joins and leaves one room does not turn each time.
func (m *Memberships[C]) remain(p *Person[C]) {
	was := p.isHere()
	switch n := len(p.circles); {
	case n >= manyRooms:
		p.remains = true
	case n < manyRooms/2:
		p.remains = false
	}
	m.turned(p, was)
}

// come has a member be one of those who are here, and gone no longer.
func (m *Memberships[C]) come(c *circle[C], p *Person[C]) {
	m.place(c, p, c.here)
	c.here++
}

func (m *Memberships[C]) gone(c *circle[C], p *Person[C]) {
	c.here--
	m.place(c, p, c.here)
}

// place has a member change places with the one at another place.
func (m *Memberships[C]) place(c *circle[C], p *Person[C], at int) {
	b, other := m.bonds.Get(pair[C]{c, p}), c.members[at]
	if other == p {
		return
	}
	m.bonds.Get(pair[C]{c, other}).inCircle = b.inCircle
	c.members[b.inCircle], c.members[at] = other, p
	b.inCircle = int32(at)
}

// Add makes p a member from a place on; false when it was one.
func (m *Memberships[C]) Add(room event.Room, ref event.Profile, at uint64) bool {
	if m.Has(room, ref) {
		return false
	}
	c, p := m.circles.Get(room), m.enter(ref)
	if c == nil {
		c = &circle[C]{room: room}
		m.circles.Put(room, c)
		m.bytes += circleBytes + sized.Text(room.ID)
	}
	c.joined = max(c.joined, at)
	m.bonds.Put(pair[C]{c, p}, &bond{at, int32(len(c.members)), int32(len(p.circles))})
	m.bytes += bondBytes
	m.moved(p)
	sized.Push(&c.members, p, &m.bytes)
	sized.Push(&p.circles, c, &m.bytes)
	if p.isHere() {
		m.come(c, p)
	}
	m.remain(p)
	m.tell(room, ref)
	return true
}

func (m *Memberships[C]) tell(room event.Room, ref event.Profile) {
	if m.Moved != nil {
		m.Moved(room, ref)
	}
}

// Remove ends p's membership at a place; false when there was none.
func (m *Memberships[C]) Remove(room event.Room, ref event.Profile, at uint64) bool {
	c, p := m.circles.Get(room), m.people.Get(ref)
	b, ok := m.bonds.Find(pair[C]{c, p})
	if !ok {
		return false
	}
	m.moved(p)
	if b.since < at {
		if m.ended >= maxPast {
			m.ForgetPast()
		}
		m.remember(belonging{p.ref, c.room}, []span{{b.since, at}})
	}
	if p.isHere() {
		m.gone(c, p)
	}
	m.place(c, p, len(c.members)-1)
	sized.Pull(&c.members, &m.bytes)
	end := len(p.circles) - 1
	if last := p.circles[end]; last != c {
		m.bonds.Get(pair[C]{last, p}).inPerson = b.inPerson
		p.circles[b.inPerson] = last
	}
	sized.Pull(&p.circles, &m.bytes)
	m.bonds.Delete(pair[C]{c, p})
	m.bytes -= bondBytes
	if len(c.members) == 0 {
		m.circles.Delete(c.room)
		m.bytes -= circleBytes + sized.Text(c.room.ID)
	}
	m.remain(p)
	m.leave(p)
	m.tell(room, ref)
	return true
}

func (b belonging) bytes() int64 { return b.profile.Bytes() + sized.Text(b.room.ID) }
