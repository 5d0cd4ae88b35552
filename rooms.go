package main

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"
	"slices"
	"time"
)

// ErrConflict: somebody else has changed the room at the same time.
var ErrConflict = errors.New("the room has changed meanwhile")

// Belonging is what is kept of one profile in one room.
type Belonging struct {
	Profile ProfileRef
	Member  bool
	Stays   []Stay // oldest first; of a member the last is without end
}

// SharedRooms keeps who belongs where for all hubs of a cluster. A hub that is alone
// keeps it by itself (nil).
type SharedRooms interface {
	// Follow names who is told of a room's belongings: all of them before Attach
	// returns, then each change in order.
	Follow(func(tenant string, room Room, changed []Belonging))
	Attach(ctx context.Context, tenant string) error
	Detach(tenant string)
	// Now is where a tenant's history is, and which version of a room is known here.
	Now(ctx context.Context, tenant string, room Room) (place, version uint64, err error)
	// Change stores what changes in a version of a room, as of a place. It returns when
	// all hubs know. ErrConflict: there is another version, and this hub knows it now.
	Change(ctx context.Context, tenant string, room Room, place, version uint64, changed []Belonging) error
}

// maxPast is how many ended stays a tenant's rooms remember.
const maxPast = 1 << 20

// tenantRoom is a room and whose it is.
type tenantRoom struct {
	tenant string
	room   Room
}

// Rooms is who belongs where in one tenant, from both sides, and since which
// place in its history. It has no lock: the hub's tenant guards it.
type Rooms struct {
	members map[Room]map[ProfileRef]uint64 // since
	of      map[ProfileRef]map[Room]struct{}
	past    map[belonging][]Stay // ended, and in reach of the history still
	ended   int                  // stays in past
	forgot  uint64               // the place up to which past was too much
	pruned  uint64               // the place up to which stays may have been pruned
	unsure  uint64               // the place up to which who belonged where may be forgotten
}

type belonging struct {
	profile ProfileRef
	room    Room
}

// Empty says that nobody belongs anywhere, nor did.
func (r *Rooms) Empty() bool { return len(r.members) == 0 && r.ended == 0 }

// Remembers says whether anybody left who may still be asked for.
func (r *Rooms) Remembers() bool { return r.ended > 0 }

// Add makes p a member from a place on; false when it was one.
func (r *Rooms) Add(room Room, p ProfileRef, at uint64) bool {
	if r.Has(room, p) {
		return false
	}
	if r.members == nil {
		r.members = map[Room]map[ProfileRef]uint64{}
		r.of = map[ProfileRef]map[Room]struct{}{}
	}
	if r.members[room] == nil {
		r.members[room] = map[ProfileRef]uint64{}
	}
	r.members[room][p] = at
	link(r.of, p, room)
	return true
}

// Remove ends p's membership at a place; false when there was none.
func (r *Rooms) Remove(room Room, p ProfileRef, at uint64) bool {
	if !r.Has(room, p) {
		return false
	}
	if since := r.members[room][p]; since < at {
		if r.past == nil || r.ended == maxPast {
			if r.ended > 0 {
				r.forgot = at
			}
			r.past, r.ended = map[belonging][]Stay{}, 0
		}
		key := belonging{p, room}
		r.past[key] = append(r.past[key], Stay{room, since, at})
		r.ended++
	}
	if delete(r.members[room], p); len(r.members[room]) == 0 {
		delete(r.members, room)
	}
	unlink(r.of, p, room)
	return true
}

// Belonging is what is known of p in a room.
func (r *Rooms) Belonging(room Room, p ProfileRef) Belonging {
	b := Belonging{Profile: p, Stays: slices.Clone(r.past[belonging{p, room}])}
	if since, ok := r.members[room][p]; ok {
		b.Member = true
		b.Stays = append(b.Stays, Stay{room, since, math.MaxUint64})
	}
	return b
}

// Set makes what is known of a profile in a room as given, and says whether it came
// or went.
func (r *Rooms) Set(room Room, b Belonging) (came, went bool) {
	was := r.Has(room, b.Profile)
	if was {
		r.Remove(room, b.Profile, 0) // leaves no stay behind
	}
	key := belonging{b.Profile, room}
	r.ended -= len(r.past[key])
	delete(r.past, key)
	past := b.Stays
	if n := len(past); b.Member && n > 0 {
		r.Add(room, b.Profile, past[n-1].From)
		past = past[:n-1]
	}
	if len(past) > 0 && r.ended+len(past) > maxPast {
		r.forgot = max(r.forgot, past[len(past)-1].Until)
	} else if len(past) > 0 {
		if r.past == nil {
			r.past = map[belonging][]Stay{}
		}
		r.past[key] = past
		r.ended += len(past)
	}
	return !was && b.Member, was && !b.Member
}

// Forgotten is the place before which a replay may lack what was said to those who
// have left a room and returned.
func (r *Rooms) Forgotten() uint64 { return r.forgot }

// Prune forgets the stays that ended before a place which the history reaches
// back to.
func (r *Rooms) Prune(oldest uint64) {
	for key, stays := range r.past {
		n := 0
		for n < len(stays) && stays[n].Until <= oldest {
			n++
		}
		if n > 0 {
			r.pruned = max(r.pruned, stays[n-1].Until)
		}
		r.ended -= n
		if r.past[key] = stays[n:]; n == len(stays) {
			delete(r.past, key)
		}
	}
}

// Unsure says that who belonged where before a place may not be known.
func (r *Rooms) Unsure(place uint64) { r.unsure = max(r.unsure, place) }

// Reader is who p is as one who reads a tenant's history.
func (r *Rooms) Reader(p ProfileRef) *Reader {
	return &Reader{Profile: p, Rooms: r.Stays(p), StaysFrom: max(r.pruned, r.unsure), RoomsFrom: r.unsure}
}

// Stays are the times that p has spent in the rooms it belongs to now.
func (r *Rooms) Stays(p ProfileRef) (stays []Stay) {
	for room := range r.of[p] {
		if r.ended > 0 {
			stays = append(stays, r.past[belonging{p, room}]...)
		}
		stays = append(stays, Stay{room, r.members[room][p], math.MaxUint64})
	}
	return stays
}

func link[K, V comparable](m map[K]map[V]struct{}, k K, v V) {
	if m[k] == nil {
		m[k] = map[V]struct{}{}
	}
	m[k][v] = struct{}{}
}

func unlink[K, V comparable](m map[K]map[V]struct{}, k K, v V) {
	if delete(m[k], v); len(m[k]) == 0 {
		delete(m, k)
	}
}

// Differ says who would join and who would leave if members were all that the room
// has.
func (r *Rooms) Differ(room Room, members []ProfileRef) (join, leave []ProfileRef) {
	want := make(map[ProfileRef]struct{}, len(members))
	for _, p := range members {
		if _, twice := want[p]; !twice && !r.Has(room, p) {
			join = append(join, p)
		}
		want[p] = struct{}{}
	}
	for p := range r.members[room] {
		if _, stays := want[p]; !stays {
			leave = append(leave, p)
		}
	}
	return join, leave
}

// Has says whether p is a member.
func (r *Rooms) Has(room Room, p ProfileRef) bool {
	_, ok := r.members[room][p]
	return ok
}

// Len is how many members the room has.
func (r *Rooms) Len(room Room) int { return len(r.members[room]) }

// Members are the room's, in no order.
func (r *Rooms) Members(room Room) iter.Seq[ProfileRef] { return maps.Keys(r.members[room]) }

// Of are the rooms that p belongs to, in no order.
func (r *Rooms) Of(p ProfileRef) iter.Seq[Room] { return maps.Keys(r.of[p]) }

// Share says whether two profiles have a room in common.
func (r *Rooms) Share(a, b ProfileRef) bool {
	few, many := r.of[a], r.of[b]
	if len(few) > len(many) {
		few, many = many, few
	}
	for room := range few {
		if _, ok := many[room]; ok {
			return true
		}
	}
	return false
}

// Roster is the membership of one room as its owner gave it. It is immutable:
// another answer is another pointer.
type Roster struct {
	Members []ProfileRef
	asked   uint64 // of two answers the one with less was asked for before
}

// resolvedTTL is how long an unused answer of a Resolver is kept for deliveries.
const resolvedTTL = time.Hour
