package delivery

import (
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/room"
	"realtimehub/internal/sized"
)

// resolved is a Resolver's answer as a tenant's rooms have it.
type resolved struct {
	roster   *room.Roster  // nil: the first is being adopted
	adopting chan struct{} // closed once another is adopted; nil: none is about to be
	used     time.Time
	at       uint64 // the tenant's place then
}

// resolvedBytes is of each answer of a Resolver.
const resolvedBytes = 48 + 2*41

// knowsLocked says whether a room's members have been told by a Resolver.
func (t *tenant) knowsLocked(room event.Room) bool {
	r := t.resolved[room]
	return r != nil && r.roster != nil
}

// adopt brings the tenant's rooms up to a Resolver's answer, unless they are up to a later one.
// The tenant is locked. Where much has changed others have it in between, but for those who adopt
// an answer of this room.
func (t *tenant) adopt(room event.Room, roster *room.Roster, now time.Time) {
	if roster == nil {
		return
	}
	t.readers++ // it is not forgotten meanwhile
	defer func() { t.readers-- }()
	r := t.resolvedLocked(room)
	for r.adopting != nil {
		over := r.adopting
		t.mu.Unlock()
		<-over
		t.mu.Lock()
		r = t.resolvedLocked(room)
	}
	r.used = now
	if r.roster != roster && (r.roster == nil || !roster.Before(r.roster)) {
		if r.roster == nil || !roster.Same(r.roster) {
			r.adopting = make(chan struct{})
			t.become(room, r.roster, roster)
			close(r.adopting)
			r.adopting = nil
		}
		r.roster = roster
	}
	r.at = t.head.Seq
	t.settleLocked()
}

// resolvedLocked is what is kept of a room's answers.
func (t *tenant) resolvedLocked(room event.Room) *resolved {
	r := t.resolved[room]
	if r == nil {
		r = &resolved{}
		t.resolved[room] = r
		t.bytes += resolvedBytes + sized.Text(room.ID)
	}
	return r
}

// become has a room's members, who were those of one answer, be those of another. The tenant is
// locked, but not while two long answers are compared, and not all the time where many join or
// leave.
func (t *tenant) become(in event.Room, was, is *room.Roster) {
	var join, leave []event.Profile
	switch here := t.rooms.Len(in); {
	case here == 0:
		join = is.Members
	case was == nil || here != len(was.Members): // it was being forgotten
		were := t.rooms.Snapshot(in)
		t.mu.Unlock()
		join, leave = room.Differ(were, is.Members)
		t.mu.Lock()
	case len(was.Members)+len(is.Members) <= memberPiece:
		join, leave = is.Differ(was)
	default:
		t.mu.Unlock()
		join, leave = is.Differ(was)
		t.mu.Lock()
	}
	t.changeMembers(in, join, leave)
}

// adoptAll is adopt of many rooms. It says whether one of them is unknown still.
func (t *tenant) adoptAll(rooms []room.Key, rosters []*room.Roster, now time.Time) (unknown bool) {
	for i, roster := range rosters {
		t.adopt(rooms[i].Room, roster, now)
		unknown = unknown || !t.knowsLocked(rooms[i].Room)
	}
	return unknown
}

// unresolveLocked forgets a Resolver's answer, and then those whom it had as members, a piece at a
// time. Others have the tenant between two pieces: rest lets them, and says whether to go on. Who
// resolves the room meanwhile has the rest of them stay, if it still has them.
func (t *tenant) unresolveLocked(room event.Room, rest func() bool) (goOn bool) {
	delete(t.resolved, room)
	t.bytes -= resolvedBytes + sized.Text(room.ID)
	for t.resolved[room] == nil {
		t.rooms.Unsure(t.head.Seq)
		some := make([]event.Profile, 0, memberPiece)
		for p := range t.rooms.Members(room) {
			if some = append(some, p); len(some) == memberPiece {
				break
			}
		}
		t.changeMembersLocked(room, nil, some)
		if !rest() {
			return false
		}
		if len(some) < memberPiece {
			break
		}
	}
	return true
}

// memberPiece is how many members of a room join or leave before others have the lock.
const memberPiece = 1000

// changeMembersLocked has profiles join and leave a room, as of now.
func (t *tenant) changeMembersLocked(room event.Room, join, leave []event.Profile) {
	for _, p := range join {
		t.hearFirstLocked(p)
		t.rooms.Add(room, p, t.head.Seq)
	}
	for _, p := range leave {
		t.hearFirstLocked(p)
		t.rooms.Remove(room, p, t.head.Seq)
	}
	t.growLocked()
}

// changeMembers is changeMembersLocked for many: others have the tenant between two pieces.
func (t *tenant) changeMembers(room event.Room, join, leave []event.Profile) {
	for len(join)+len(leave) > memberPiece {
		some := min(len(join), memberPiece)
		others := min(len(leave), memberPiece-some)
		t.changeMembersLocked(room, join[:some], leave[:others])
		join, leave = join[some:], leave[others:]
		t.mu.Unlock()
		t.mu.Lock()
	}
	t.changeMembersLocked(room, join, leave)
}
