package main

import (
	"iter"
	"maps"
	"math"
	"time"
)

// maxPast is how many ended stays a tenant's rooms remember.
const maxPast = 1 << 20

// Rooms is who belongs where in one tenant, from both sides, and since which
// place in its history. It has no lock: the hub's tenant guards it.
type Rooms struct {
	members map[Room]map[ProfileRef]uint64 // since
	of      map[ProfileRef]map[Room]struct{}
	past    map[belonging][]Stay // ended, and in reach of the history still
	ended   int                  // stays in past
	forgot  uint64               // the place up to which past was too much
}

type belonging struct {
	profile ProfileRef
	room    Room
}

// Empty says that nobody belongs anywhere, nor did.
func (r *Rooms) Empty() bool { return len(r.members) == 0 && r.ended == 0 }

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
		r.ended -= n
		if r.past[key] = stays[n:]; n == len(stays) {
			delete(r.past, key)
		}
	}
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

// Replace makes members all that the room has, and returns who came and went.
func (r *Rooms) Replace(room Room, members []ProfileRef, at uint64) (added, removed []ProfileRef) {
	want := make(map[ProfileRef]struct{}, len(members))
	for _, p := range members {
		want[p] = struct{}{}
		if r.Add(room, p, at) {
			added = append(added, p)
		}
	}
	for p := range r.members[room] {
		if _, stays := want[p]; !stays {
			removed = append(removed, p)
		}
	}
	for _, p := range removed {
		r.Remove(room, p, at)
	}
	return added, removed
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
type Roster struct{ Members []ProfileRef }

// resolvedTTL is how long an unused answer of a Resolver is kept for deliveries.
const resolvedTTL = time.Hour
