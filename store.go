package main

import (
	"crypto/rand"
	"encoding/hex"
	"iter"
	"maps"
	"strconv"
	"time"
)

// Cursor is a place in a tenant's history. Its text form is opaque to clients.
type Cursor struct {
	Epoch string // new for each life of the log
	Seq   uint64 // 0: before the first event
}

func (c Cursor) String() string { return c.Epoch + "-" + strconv.FormatUint(c.Seq, 10) }

// Plus is the place n further on.
func (c Cursor) Plus(n int) Cursor { return Cursor{c.Epoch, c.Seq + uint64(n)} }

// Log gives the events of one tenant their places. The hub calls it under the
// tenant's lock: one order for all.
type Log interface {
	// Append takes n consecutive places and returns the first.
	Append(n int, now time.Time) Cursor
	// Head is the place of the last event.
	Head() Cursor
	// Idle says that nothing is lost when the log is forgotten.
	Idle(now time.Time) bool
}

// logTTL is how long a quiet tenant's place in its history is remembered.
const logTTL = 24 * time.Hour

type memoryLog struct {
	head Cursor
	last time.Time
}

// NewMemoryLog starts a log that lives as long as the process.
func NewMemoryLog() Log {
	var epoch [8]byte
	rand.Read(epoch[:])
	return &memoryLog{head: Cursor{Epoch: hex.EncodeToString(epoch[:])}}
}

func (l *memoryLog) Append(n int, now time.Time) Cursor {
	first := l.head.Plus(1)
	l.head, l.last = l.head.Plus(n), now
	return first
}

func (l *memoryLog) Head() Cursor { return l.head }

func (l *memoryLog) Idle(now time.Time) bool {
	return l.head.Seq == 0 || now.Sub(l.last) > logTTL
}

// Rooms is who belongs where in one tenant, from both sides. It has no lock:
// the hub's tenant guards it.
type Rooms struct {
	members map[Room]map[ProfileRef]struct{}
	of      map[ProfileRef]map[Room]struct{}
}

// Empty says that nobody belongs anywhere.
func (r *Rooms) Empty() bool { return len(r.members) == 0 }

// Add makes p a member; false when it was one.
func (r *Rooms) Add(room Room, p ProfileRef) bool {
	if r.Has(room, p) {
		return false
	}
	if r.members == nil {
		r.members = map[Room]map[ProfileRef]struct{}{}
		r.of = map[ProfileRef]map[Room]struct{}{}
	}
	link(r.members, room, p)
	link(r.of, p, room)
	return true
}

// Remove ends p's membership; false when there was none.
func (r *Rooms) Remove(room Room, p ProfileRef) bool {
	if !r.Has(room, p) {
		return false
	}
	unlink(r.members, room, p)
	unlink(r.of, p, room)
	return true
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
func (r *Rooms) Replace(room Room, members []ProfileRef) (added, removed []ProfileRef) {
	want := make(map[ProfileRef]struct{}, len(members))
	for _, p := range members {
		want[p] = struct{}{}
		if r.Add(room, p) {
			added = append(added, p)
		}
	}
	for p := range r.members[room] {
		if _, stays := want[p]; !stays {
			removed = append(removed, p)
		}
	}
	for _, p := range removed {
		r.Remove(room, p)
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
