package room

import (
	"iter"
	"math"
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
	circles sized.Table[event.Room, *circle[C]]
	people  sized.Table[event.Profile, *Person[C]]
	bonds   sized.Table[pair[C], bond]
	past    sized.Table[belonging, []span] // ended, and in reach of the history still
	ended   int                            // stays in past
	forgot  uint64                         // stays that ended up to this place may be lacking
	cut     sized.Table[belonging, uint64] // and of these up to a later one
	pruned  uint64                         // the place up to which stays may have been pruned
	unsure  uint64                         // the place up to which who belonged where may be forgotten
	tag     uint64                         // of the epoch that all these places are of; 0: of any
	bytes   int64                          // of all but the tables
}

// circle is who belongs to one room: first those who are connected.
type circle[C comparable] struct {
	room    event.Room
	members []*Person[C]
	here    int    // so many of them are connected
	joined  uint64 // the last place from which on one of them has belonged to it
}

// Person is a profile that belongs somewhere or has connections.
type Person[C comparable] struct {
	ref     event.Profile
	conns   []C
	circles []*circle[C]
	stays   []history.Stay // of who is in many rooms, as long as they are right; nil: not known
}

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
)

// Bytes is what all of it takes in memory.
func (r *Memberships[C]) Bytes() int64 {
	return r.bytes + r.circles.Bytes() + r.people.Bytes() + r.bonds.Bytes() + r.past.Bytes() + r.cut.Bytes()
}

// JoinBytes is what it takes for profiles to join a room, at most.
func (r *Memberships[C]) JoinBytes(room event.Room, join []event.Profile) (n int64) {
	if r.circles.Get(room) == nil {
		n += circleBytes + r.circles.Each() + sized.Text(room.ID)
	}
	for _, p := range join {
		n += r.bonds.Each() + 2*16
		if r.people.Get(p) == nil {
			n += personBytes + r.people.Each() + p.Bytes()
		}
	}
	return n
}

// Count is how many there are now.
func (r *Memberships[C]) Count() int { return r.bonds.Len() }

// IsOf says whether the places are of a history.
func (r *Memberships[C]) IsOf(epoch history.Epoch) bool { return r.tag == epoch.Tag }

// Empty says that nobody belongs anywhere, nor did.
func (r *Memberships[C]) Empty() bool { return r.bonds.Len() == 0 && !r.Remembers() }

// Remembers says whether anybody left who may still be asked for.
func (r *Memberships[C]) Remembers() bool { return r.ended > 0 || r.forgot > 0 || r.cut.Len() > 0 }

// Profile is who the person is.
func (p *Person[C]) Profile() event.Profile { return p.ref }

// Conns are a person's connections, the oldest first. They are good until the next change.
func (p *Person[C]) Conns() []C { return p.conns }

// Person is who belongs somewhere or is connected; nil where that is nobody.
func (r *Memberships[C]) Person(ref event.Profile) *Person[C] { return r.people.Get(ref) }

// enter finds or makes a person.
func (r *Memberships[C]) enter(ref event.Profile) *Person[C] {
	p := r.people.Get(ref)
	if p == nil {
		p = &Person[C]{ref: ref}
		r.people.Put(ref, p)
		r.bytes += personBytes + ref.Bytes()
	}
	return p
}

// leave forgets a person who belongs nowhere and has no connection.
func (r *Memberships[C]) leave(p *Person[C]) {
	if len(p.conns) == 0 && len(p.circles) == 0 {
		r.people.Delete(p.ref)
		r.bytes -= personBytes + p.ref.Bytes()
	}
}

// Connect adds a connection of a profile, and is the person.
func (r *Memberships[C]) Connect(ref event.Profile, c C) *Person[C] {
	p := r.enter(ref)
	sized.Push(&p.conns, c, &r.bytes)
	if len(p.conns) == 1 {
		for _, circle := range p.circles {
			r.come(circle, p)
		}
	}
	return p
}

// Disconnect takes a connection away.
func (r *Memberships[C]) Disconnect(ref event.Profile, c C) {
	p := r.people.Get(ref)
	if i := slices.Index(p.conns, c); i >= 0 {
		copy(p.conns[i:], p.conns[i+1:]) // the oldest stays the first
		sized.Pull(&p.conns, &r.bytes)
	}
	if len(p.conns) == 0 {
		for _, circle := range p.circles {
			r.gone(circle, p)
		}
		r.leave(p)
	}
}

// come has a member be one of those who are connected, and gone no longer.
func (r *Memberships[C]) come(c *circle[C], p *Person[C]) {
	r.swap(c, int(r.bonds.Get(pair[C]{c, p}).inCircle), c.here)
	c.here++
}

func (r *Memberships[C]) gone(c *circle[C], p *Person[C]) {
	c.here--
	r.swap(c, int(r.bonds.Get(pair[C]{c, p}).inCircle), c.here)
}

func (r *Memberships[C]) swap(c *circle[C], i, j int) {
	if i == j {
		return
	}
	c.members[i], c.members[j] = c.members[j], c.members[i]
	for _, at := range []int{i, j} {
		b := r.bonds.Get(pair[C]{c, c.members[at]})
		b.inCircle = int32(at)
		r.bonds.Put(pair[C]{c, c.members[at]}, b)
	}
}

// Here are the members of a room that are connected, in no order, for whom an event at a
// place is: who has joined after it was told of early. size is how many it has in all.
func (r *Memberships[C]) Here(room event.Room, place uint64) (here []*Person[C], size int) {
	c := r.circles.Get(room)
	if c == nil {
		return nil, 0
	}
	here = c.members[:c.here]
	if c.joined >= place {
		here = slices.DeleteFunc(slices.Clone(here), func(p *Person[C]) bool { return !r.belonged(c, p, place) })
	}
	return here, len(c.members)
}

// belonged says whether a member was one at a place, or may have been.
func (r *Memberships[C]) belonged(c *circle[C], p *Person[C], place uint64) bool {
	key := belonging{p.ref, c.room}
	return r.bonds.Get(pair[C]{c, p}).since < place || max(r.forgot, r.cut.Get(key)) >= place ||
		slices.ContainsFunc(r.past.Get(key), func(s span) bool { return s.from < place && place <= s.until })
}

// Add makes p a member from a place on; false when it was one.
func (r *Memberships[C]) Add(room event.Room, ref event.Profile, at uint64) bool {
	if r.Has(room, ref) {
		return false
	}
	c, p := r.circles.Get(room), r.enter(ref)
	if c == nil {
		c = &circle[C]{room: room}
		r.circles.Put(room, c)
		r.bytes += circleBytes + sized.Text(room.ID)
	}
	c.joined = max(c.joined, at)
	r.bonds.Put(pair[C]{c, p}, bond{at, int32(len(c.members)), int32(len(p.circles))})
	r.moved(p)
	sized.Push(&c.members, p, &r.bytes)
	sized.Push(&p.circles, c, &r.bytes)
	if len(p.conns) > 0 {
		r.come(c, p)
	}
	return true
}

// Remove ends p's membership at a place; false when there was none.
func (r *Memberships[C]) Remove(room event.Room, ref event.Profile, at uint64) bool {
	c, p := r.circles.Get(room), r.people.Get(ref)
	b, ok := r.bonds.Find(pair[C]{c, p})
	if !ok {
		return false
	}
	r.moved(p)
	if b.since < at {
		if r.ended >= maxPast {
			r.ForgetPast()
		}
		r.remember(belonging{p.ref, c.room}, []span{{b.since, at}})
	}
	if len(p.conns) > 0 {
		r.gone(c, p)
	}
	r.swap(c, int(r.bonds.Get(pair[C]{c, p}).inCircle), len(c.members)-1)
	sized.Pull(&c.members, &r.bytes)
	end := len(p.circles) - 1
	if last := p.circles[end]; last != c {
		moved := r.bonds.Get(pair[C]{last, p})
		moved.inPerson = b.inPerson
		r.bonds.Put(pair[C]{last, p}, moved)
		p.circles[b.inPerson] = last
	}
	sized.Pull(&p.circles, &r.bytes)
	r.bonds.Delete(pair[C]{c, p})
	if len(c.members) == 0 {
		r.circles.Delete(c.room)
		r.bytes -= circleBytes + sized.Text(c.room.ID)
	}
	r.leave(p)
	return true
}

func (b belonging) bytes() int64 { return b.profile.Bytes() + sized.Text(b.room.ID) }

func (r *Memberships[C]) circlesOf(ref event.Profile) []*circle[C] {
	if p := r.people.Get(ref); p != nil {
		return p.circles
	}
	return nil
}

// Visited are rooms whose connected members were told of something.
type Visited[C comparable] map[*circle[C]]bool

// EachBeside calls tell for everybody who is connected and has a room in common with a
// profile, of rooms that were not visited before; now they are. Who is in several of them
// is told several times.
func (r *Memberships[C]) EachBeside(ref event.Profile, visited Visited[C], tell func(*Person[C])) {
	for _, c := range r.circlesOf(ref) {
		if !visited[c] {
			visited[c] = true
			for _, p := range c.members[:c.here] {
				tell(p)
			}
		}
	}
}

// Differ says who would join and who would leave if members were all that the room
// has.
func (r *Memberships[C]) Differ(room event.Room, members []event.Profile) (join, leave []event.Profile) {
	want := make(map[event.Profile]struct{}, len(members))
	for _, p := range members {
		if _, twice := want[p]; !twice && !r.Has(room, p) {
			join = append(join, p)
		}
		want[p] = struct{}{}
	}
	for p := range r.Members(room) {
		if _, stays := want[p]; !stays {
			leave = append(leave, p)
		}
	}
	return join, leave
}

func (r *Memberships[C]) bond(room event.Room, p event.Profile) (bond, bool) {
	c := r.circles.Get(room)
	if c == nil {
		return bond{}, false
	}
	b, ok := r.bonds.Find(pair[C]{c, r.people.Get(p)})
	return b, ok
}

// Has says whether p is a member.
func (r *Memberships[C]) Has(room event.Room, p event.Profile) bool {
	_, ok := r.bond(room, p)
	return ok
}

// Len is how many members the room has.
func (r *Memberships[C]) Len(room event.Room) int {
	_, size := r.Here(room, math.MaxUint64)
	return size
}

// Members are the room's, in no order.
func (r *Memberships[C]) Members(room event.Room) iter.Seq[event.Profile] {
	return func(yield func(event.Profile) bool) {
		if c := r.circles.Get(room); c != nil {
			for _, p := range c.members {
				if !yield(p.ref) {
					return
				}
			}
		}
	}
}

// Share says whether two profiles have a room in common.
func (r *Memberships[C]) Share(a, b event.Profile) bool {
	one, other := r.people.Get(a), r.people.Get(b)
	if one == nil || other == nil {
		return false
	}
	if len(one.circles) > len(other.circles) {
		one, other = other, one
	}
	return slices.ContainsFunc(one.circles, func(c *circle[C]) bool {
		_, both := r.bonds.Find(pair[C]{c, other})
		return both
	})
}
