package main

import (
	"context"
	"iter"
	"math"
	"net/http"
	"slices"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
	"realtimehub/internal/sized"
)

// ErrConflict: somebody else has changed the room at the same time.
var ErrConflict = problem.New("the room has changed meanwhile", problem.Problem{Status: http.StatusServiceUnavailable, Code: "Unconfirmed",
	Detail: "the broker did not confirm in time; it may have been stored: send it again with the same id, and the answer tells"})

// Belonging is what is kept of one profile in one room.
type Belonging struct {
	Profile event.Profile
	Member  bool
	Stays   []history.Stay // oldest first; of a member the last is without end
	Forgot  uint64         // stays that ended up to this place may be lacking
}

// restarted is what is known of it in another history than that of its places.
func (b Belonging) restarted(room event.Room) Belonging {
	b.Stays, b.Forgot = nil, 0
	if b.Member {
		b.Stays = []history.Stay{{Room: room, From: 0, Until: math.MaxUint64}}
	}
	return b
}

// SharedRooms keeps who belongs where for all hubs of a cluster. A hub that is alone
// keeps it by itself (nil).
type SharedRooms interface {
	// Follow names who is told of a room's belongings: all of them before Attach
	// returns, then each change in order, with the history that their places are of.
	// What is forgotten is gone, and told anew where it is there again.
	Follow(belong func(tenant string, of history.Epoch, room event.Room, changed []Belonging), forget func(tenant string))
	Attach(ctx context.Context, tenant string) error
	Detach(tenant string)
	// Now is what is to be known before a room is changed.
	Now(ctx context.Context, tenant string, room event.Room) (RoomState, error)
	// Change stores what changes in a room that was in a state; empty: nobody belongs to
	// it then. It returns when all hubs know. ErrConflict: there is another version, and
	// this hub knows it now; or the history is another.
	Change(ctx context.Context, tenant string, room event.Room, was RoomState, changed []Belonging, empty bool) error
	// Sure returns when what had been changed anywhere before the call is known here: at
	// once, unless other hubs may have given this one up. ErrUnconfirmed: that cannot be
	// said now.
	Sure(ctx context.Context) error
}

// RoomState is where a tenant's history is, and which version of a room is known here.
type RoomState struct {
	Now     history.Cursor
	Version uint64
}

// maxPast is how many ended stays a tenant's rooms remember.
const maxPast = 1 << 20

// tenantRoom is a room and whose it is.
type tenantRoom struct {
	tenant string
	room   event.Room
}

// Rooms is who belongs where in one tenant, from both sides, since which place in its
// history, and who of them is connected. It has no lock: the hub's tenant guards it.
//
// A profile and a room are kept once, however many belong together, and what all of it
// takes is counted in bytes.
type Rooms struct {
	circles sized.Table[event.Room, *circle]
	people  sized.Table[event.Profile, *person]
	bonds   sized.Table[pair, bond]
	past    sized.Table[belonging, []span] // ended, and in reach of the history still
	ended   int                            // stays in past
	forgot  uint64                         // stays that ended up to this place may be lacking
	cut     sized.Table[belonging, uint64] // and of these up to a later one
	pruned  uint64                         // the place up to which stays may have been pruned
	unsure  uint64                         // the place up to which who belonged where may be forgotten
	of      uint64                         // the tag of the epoch that all these places are of; 0: of any
	bytes   int64                          // of all but the tables
}

// circle is who belongs to one room: first those who are connected.
type circle struct {
	room    event.Room
	members []*person
	here    int    // so many of them are connected
	joined  uint64 // the last place from which on one of them has belonged to it
}

// person is a profile that belongs somewhere or has connections.
type person struct {
	ref     event.Profile
	conns   []*Connection
	circles []*circle
	stays   []history.Stay // of who is in many rooms, as long as they are right; nil: not known
}

// pair names a bond: of this person to that circle.
type pair struct {
	circle *circle
	person *person
}

type bond struct {
	since    uint64
	inCircle int32 // in circle.members
	inPerson int32 // in person.circles
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
func (r *Rooms) Bytes() int64 {
	return r.bytes + r.circles.Bytes() + r.people.Bytes() + r.bonds.Bytes() + r.past.Bytes() + r.cut.Bytes()
}

// JoinBytes is what it takes for profiles to join a room, at most.
func (r *Rooms) JoinBytes(room event.Room, join []event.Profile) (n int64) {
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

// Memberships is how many there are now.
func (r *Rooms) Memberships() int { return r.bonds.Len() }

// Empty says that nobody belongs anywhere, nor did.
func (r *Rooms) Empty() bool { return r.bonds.Len() == 0 && !r.Remembers() }

// Remembers says whether anybody left who may still be asked for.
func (r *Rooms) Remembers() bool { return r.ended > 0 || r.forgot > 0 || r.cut.Len() > 0 }

// Person is who belongs somewhere or is connected; nil where that is nobody.
func (r *Rooms) Person(ref event.Profile) *person { return r.people.Get(ref) }

// enter finds or makes a person.
func (r *Rooms) enter(ref event.Profile) *person {
	p := r.people.Get(ref)
	if p == nil {
		p = &person{ref: ref}
		r.people.Put(ref, p)
		r.bytes += personBytes + ref.Bytes()
	}
	return p
}

// leave forgets a person who belongs nowhere and has no connection.
func (r *Rooms) leave(p *person) {
	if len(p.conns) == 0 && len(p.circles) == 0 {
		r.people.Delete(p.ref)
		r.bytes -= personBytes + p.ref.Bytes()
	}
}

// Connect adds a connection of a profile, and is the person.
func (r *Rooms) Connect(ref event.Profile, c *Connection) *person {
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
func (r *Rooms) Disconnect(ref event.Profile, c *Connection) {
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
func (r *Rooms) come(c *circle, p *person) {
	r.swap(c, int(r.bonds.Get(pair{c, p}).inCircle), c.here)
	c.here++
}

func (r *Rooms) gone(c *circle, p *person) {
	c.here--
	r.swap(c, int(r.bonds.Get(pair{c, p}).inCircle), c.here)
}

func (r *Rooms) swap(c *circle, i, j int) {
	if i == j {
		return
	}
	c.members[i], c.members[j] = c.members[j], c.members[i]
	for _, at := range []int{i, j} {
		b := r.bonds.Get(pair{c, c.members[at]})
		b.inCircle = int32(at)
		r.bonds.Put(pair{c, c.members[at]}, b)
	}
}

// Here are the members of a room that are connected, in no order, for whom an event at a
// place is: who has joined after it was told of early. size is how many it has in all.
func (r *Rooms) Here(room event.Room, place uint64) (here []*person, size int) {
	c := r.circles.Get(room)
	if c == nil {
		return nil, 0
	}
	here = c.members[:c.here]
	if c.joined >= place {
		here = slices.DeleteFunc(slices.Clone(here), func(p *person) bool { return !r.belonged(c, p, place) })
	}
	return here, len(c.members)
}

// belonged says whether a member was one at a place, or may have been.
func (r *Rooms) belonged(c *circle, p *person, place uint64) bool {
	key := belonging{p.ref, c.room}
	return r.bonds.Get(pair{c, p}).since < place || max(r.forgot, r.cut.Get(key)) >= place ||
		slices.ContainsFunc(r.past.Get(key), func(s span) bool { return s.from < place && place <= s.until })
}

// Add makes p a member from a place on; false when it was one.
func (r *Rooms) Add(room event.Room, ref event.Profile, at uint64) bool {
	if r.Has(room, ref) {
		return false
	}
	c, p := r.circles.Get(room), r.enter(ref)
	if c == nil {
		c = &circle{room: room}
		r.circles.Put(room, c)
		r.bytes += circleBytes + sized.Text(room.ID)
	}
	c.joined = max(c.joined, at)
	r.bonds.Put(pair{c, p}, bond{at, int32(len(c.members)), int32(len(p.circles))})
	r.moved(p)
	sized.Push(&c.members, p, &r.bytes)
	sized.Push(&p.circles, c, &r.bytes)
	if len(p.conns) > 0 {
		r.come(c, p)
	}
	return true
}

// Remove ends p's membership at a place; false when there was none.
func (r *Rooms) Remove(room event.Room, ref event.Profile, at uint64) bool {
	c, p := r.circles.Get(room), r.people.Get(ref)
	b, ok := r.bonds.Find(pair{c, p})
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
	r.swap(c, int(r.bonds.Get(pair{c, p}).inCircle), len(c.members)-1)
	sized.Pull(&c.members, &r.bytes)
	end := len(p.circles) - 1
	if last := p.circles[end]; last != c {
		moved := r.bonds.Get(pair{last, p})
		moved.inPerson = b.inPerson
		r.bonds.Put(pair{last, p}, moved)
		p.circles[b.inPerson] = last
	}
	sized.Pull(&p.circles, &r.bytes)
	r.bonds.Delete(pair{c, p})
	if len(c.members) == 0 {
		r.circles.Delete(c.room)
		r.bytes -= circleBytes + sized.Text(c.room.ID)
	}
	r.leave(p)
	return true
}

// remember adds ended stays of one profile in one room.
func (r *Rooms) remember(key belonging, ended []span) {
	stays := r.past.Get(key)
	if stays == nil {
		r.bytes += key.bytes()
	}
	r.bytes += spanBytes * int64(len(ended))
	r.ended += len(ended)
	r.past.Put(key, append(stays, ended...))
}

// forget drops the first n stays of one profile in one room.
func (r *Rooms) forget(key belonging, n int) {
	stays := r.past.Get(key)
	r.ended -= n
	r.bytes -= spanBytes * int64(n)
	if n < len(stays) {
		r.past.Put(key, slices.Clone(stays[n:]))
	} else if stays != nil {
		r.past.Delete(key)
		r.bytes -= key.bytes()
	}
}

// spanBytes is of one in a list that grows.
const spanBytes = 2 * 16

func (b belonging) bytes() int64 { return b.profile.Bytes() + sized.Text(b.room.ID) }

// ForgetPast forgets all stays that have ended: who resumes from before the last of their
// ends is told of a gap. It says whether there were any.
func (r *Rooms) ForgetPast() bool {
	if r.ended+r.cut.Len() == 0 {
		return false
	}
	for key, stays := range r.past.All() {
		r.bytes -= spanBytes*int64(len(stays)) + key.bytes()
		r.forgot = max(r.forgot, stays[len(stays)-1].until)
	}
	for key, place := range r.cut.All() {
		r.bytes -= key.bytes()
		r.forgot = max(r.forgot, place)
	}
	r.past, r.ended, r.cut = sized.Table[belonging, []span]{}, 0, sized.Table[belonging, uint64]{}
	return true
}

// cutShort notes up to which place a profile's stays in a room may be lacking; 0: they
// are not.
func (r *Rooms) cutShort(key belonging, place uint64) {
	_, was := r.cut.Find(key)
	switch {
	case place == 0 && was:
		r.cut.Delete(key)
		r.bytes -= key.bytes()
	case place > 0:
		if !was {
			r.bytes += key.bytes()
		}
		r.cut.Put(key, place)
	}
}

// Belonging is what is known of p in a room.
func (r *Rooms) Belonging(room event.Room, p event.Profile) Belonging {
	b := Belonging{Profile: p, Forgot: max(r.forgot, r.cut.Get(belonging{p, room}))}
	for _, s := range r.past.Get(belonging{p, room}) {
		b.Stays = append(b.Stays, history.Stay{Room: room, From: s.from, Until: s.until})
	}
	if bond, ok := r.bond(room, p); ok {
		b.Member = true
		b.Stays = append(b.Stays, history.Stay{Room: room, From: bond.since, Until: math.MaxUint64})
	}
	return b
}

// Set makes what is known of a profile in a room as given.
func (r *Rooms) Set(room event.Room, b Belonging) {
	past, member, from := b.Stays, b.Member && len(b.Stays) > 0, uint64(0)
	if member {
		from, past = past[len(past)-1].From, past[:len(past)-1]
	}
	if bond, was := r.bond(room, b.Profile); was && (!member || bond.since != from) {
		r.Remove(room, b.Profile, 0) // leaves no stay behind
	}
	if member {
		r.Add(room, b.Profile, from)
	}
	key := belonging{b.Profile, room}
	if p := r.people.Get(b.Profile); p != nil {
		r.moved(p)
	}
	r.forget(key, len(r.past.Get(key)))
	r.cutShort(key, b.Forgot)
	if len(past) > 0 && r.ended+len(past) > maxPast {
		r.forgot = max(r.forgot, past[len(past)-1].Until)
	} else if len(past) > 0 {
		spans := make([]span, len(past))
		for i, s := range past {
			spans[i] = span{s.From, s.Until}
		}
		r.remember(key, spans)
	}
}

// Restart has those who belong somewhere do so from the beginning of a history on, if the
// places that are known are of another.
func (r *Rooms) Restart(of history.Epoch) {
	if r.of == of.Tag {
		return
	}
	r.of = of.Tag
	r.ForgetPast()
	for p, b := range r.bonds.All() {
		b.since = 0
		r.bonds.Put(p, b)
		r.moved(p.person)
	}
	for _, c := range r.circles.All() {
		c.joined = 0
	}
	r.forgot, r.pruned, r.unsure = 0, 0, 0
}

// Clear forgets who belongs where, and did.
func (r *Rooms) Clear() {
	r.ForgetPast()
	for _, c := range r.circles.All() {
		for len(c.members) > 0 {
			r.Remove(c.room, c.members[len(c.members)-1].ref, 0) // leaves no stay behind
		}
	}
}

// Forgotten is the place before which a replay for a profile may lack what was said to
// rooms that it has left and returned to.
func (r *Rooms) Forgotten(ref event.Profile) uint64 {
	place := r.forgot
	if r.cut.Len() > 0 {
		for _, c := range r.circlesOf(ref) {
			place = max(place, r.cut.Get(belonging{ref, c.room}))
		}
	}
	return place
}

// Prune forgets the stays that ended before a place which the history reaches
// back to.
func (r *Rooms) Prune(oldest uint64) {
	if r.forgot <= oldest {
		r.pruned, r.forgot = max(r.pruned, r.forgot), 0
	}
	for key, place := range r.cut.All() {
		if place <= oldest {
			r.pruned = max(r.pruned, place)
			r.cutShort(key, 0)
		}
	}
	for key, stays := range r.past.All() {
		n := 0
		for n < len(stays) && stays[n].until <= oldest {
			n++
		}
		if n > 0 {
			r.pruned = max(r.pruned, stays[n-1].until)
			r.forget(key, n)
		}
	}
}

// Unsure says that who belonged where before a place may not be known.
func (r *Rooms) Unsure(place uint64) { r.unsure = max(r.unsure, place) }

// Reader is who p is as one who reads a tenant's history.
func (r *Rooms) Reader(p event.Profile) *history.Reader {
	return &history.Reader{Profile: p, Rooms: r.known(p), StaysFrom: max(r.pruned, r.unsure), RoomsFrom: r.unsure}
}

// manyRooms has so many that to find the stays of who is in all of them takes long: they
// are kept until its rooms change. Those that are pruned meanwhile do no harm.
const manyRooms = 1000

const stayBytes = 48

// known is Stays, found once of who is in many rooms.
func (r *Rooms) known(ref event.Profile) []history.Stay {
	p := r.people.Get(ref)
	if p == nil || len(p.circles) < manyRooms {
		return r.Stays(ref)
	}
	if p.stays == nil {
		p.stays = r.Stays(ref)
		r.bytes += stayBytes * int64(cap(p.stays))
	}
	return p.stays
}

// moved says that a person's rooms change.
func (r *Rooms) moved(p *person) {
	r.bytes -= stayBytes * int64(cap(p.stays))
	p.stays = nil
}

// Stays are the times that p has spent in the rooms it belongs to now.
func (r *Rooms) Stays(ref event.Profile) (stays []history.Stay) {
	for _, c := range r.circlesOf(ref) {
		if r.ended > 0 {
			for _, s := range r.past.Get(belonging{ref, c.room}) {
				stays = append(stays, history.Stay{Room: c.room, From: s.from, Until: s.until})
			}
		}
		stays = append(stays, history.Stay{Room: c.room, From: r.bonds.Get(pair{c, r.people.Get(ref)}).since, Until: math.MaxUint64})
	}
	return stays
}

func (r *Rooms) circlesOf(ref event.Profile) []*circle {
	if p := r.people.Get(ref); p != nil {
		return p.circles
	}
	return nil
}

// Differ says who would join and who would leave if members were all that the room
// has.
func (r *Rooms) Differ(room event.Room, members []event.Profile) (join, leave []event.Profile) {
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

func (r *Rooms) bond(room event.Room, p event.Profile) (bond, bool) {
	c := r.circles.Get(room)
	if c == nil {
		return bond{}, false
	}
	b, ok := r.bonds.Find(pair{c, r.people.Get(p)})
	return b, ok
}

// Has says whether p is a member.
func (r *Rooms) Has(room event.Room, p event.Profile) bool {
	_, ok := r.bond(room, p)
	return ok
}

// Len is how many members the room has.
func (r *Rooms) Len(room event.Room) int {
	_, size := r.Here(room, math.MaxUint64)
	return size
}

// Members are the room's, in no order.
func (r *Rooms) Members(room event.Room) iter.Seq[event.Profile] {
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
func (r *Rooms) Share(a, b event.Profile) bool {
	one, other := r.people.Get(a), r.people.Get(b)
	if one == nil || other == nil {
		return false
	}
	if len(one.circles) > len(other.circles) {
		one, other = other, one
	}
	return slices.ContainsFunc(one.circles, func(c *circle) bool {
		_, both := r.bonds.Find(pair{c, other})
		return both
	})
}

// Roster is the membership of one room as its owner gave it. It is immutable:
// another answer is another pointer.
type Roster struct {
	Members []event.Profile
	asked   uint64 // of two answers the one with less was asked for before
}

// resolvedTTL is how long an unused answer of a Resolver is kept for deliveries.
const resolvedTTL = time.Hour
