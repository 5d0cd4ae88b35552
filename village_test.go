package main

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/event"
	"realtimehub/internal/presence"
)

// Of a village's hubs.
const (
	villageIdle  = 5 * time.Minute
	villageGrace = 5 * time.Second
	villageBack  = 2 * time.Second // in which who was sent away is back
)

// village is what is so of a tenant's people and rooms, each by its rule and found by looking at all of
// them: what a hub has to agree with, however it finds it.
type village struct {
	people []*villager
	rooms  map[event.Room]map[event.Profile]bool // who belongs to them
	told   map[event.Room]bool                   // services know it as occupied
}

// villager is one of them.
type villager struct {
	ref    event.Profile
	here   map[uuid.UUID]time.Time // connections, and when each was last active
	there  map[uuid.UUID]time.Time // those on other hubs
	away   map[uuid.UUID]bool      // of there, those whose hub sends its clients away
	typed  time.Time               // last
	active time.Time               // ever
	left   time.Time               // when the last connection closed; zero since one opened

	status    presence.Status
	announced presence.Status
}

func newVillager(ref event.Profile) *villager {
	return &villager{
		ref: ref, here: map[uuid.UUID]time.Time{}, there: map[uuid.UUID]time.Time{}, away: map[uuid.UUID]bool{},
		status: presence.Offline, announced: presence.Offline,
	}
}

func (p *villager) connected() bool { return len(p.here)+len(p.there) > 0 }

// lastActive is the latest activity that counts: typing, or that of a connection which is there.
func (p *villager) lastActive() time.Time {
	times := slices.AppendSeq(slices.Collect(maps.Values(p.here)), maps.Values(p.there))
	return slices.MaxFunc(append(times, p.typed), time.Time.Compare)
}

// comes has a connection be among those of one kind, or be active later than it was.
func (p *villager) comes(among map[uuid.UUID]time.Time, id uuid.UUID, active time.Time) {
	was, known := among[id]
	if !known {
		p.left = time.Time{}
	}
	if active.After(was) {
		among[id] = active
	}
	p.looked()
}

// goes takes a connection away that was there until a time.
func (p *villager) goes(among map[uuid.UUID]time.Time, id uuid.UUID, at time.Time) {
	delete(among, id)
	if p.away[id] {
		at = time.Now().Add(villageBack)
		delete(p.away, id)
	}
	if now := time.Now(); p.connected() && at.After(now) {
		at = now // it need not be back
	}
	if at.After(p.left) {
		p.left = at
	}
	p.looked()
}

// types has somebody type, who counts only once they were connected.
func (p *villager) types() {
	if !p.active.IsZero() {
		p.typed = time.Now()
		p.looked()
	}
}

// looked has the status be what follows now.
func (p *villager) looked() {
	now := time.Now()
	if active := p.lastActive(); active.After(p.active) {
		p.active = active
	}
	switch {
	case p.connected() && now.Before(p.lastActive().Add(villageIdle)):
		p.status = presence.Online
	case p.connected():
		p.status = presence.Away
	case !now.Before(p.left.Add(villageGrace)):
		p.status = presence.Offline
	}
}

// ticks returns what is announced, of whom, and which rooms are no more what services know of them.
func (v *village) ticks() (changes map[event.Profile]string, rooms map[event.Room]bool) {
	changes, rooms = map[event.Profile]string{}, map[event.Room]bool{}
	for _, one := range v.people {
		if one.looked(); one.status != one.announced {
			changes[one.ref] = string(one.announced) + ">" + string(one.status)
			one.announced = one.status
		}
	}
	for room, members := range v.rooms {
		occupied := slices.ContainsFunc(v.people, func(one *villager) bool { return members[one.ref] && one.announced != presence.Offline })
		if occupied != v.told[room] {
			v.told[room], rooms[room] = occupied, occupied
		}
	}
	return changes, rooms
}

// reached is how many connections an event has here, and there.
func (v *village) reached(to *event.Target) (here, there int) {
	room, isRoom := to.Room()
	for _, one := range v.people {
		is := to.Kind == event.KindTenant || isRoom && v.rooms[room][one.ref] || slices.Contains(to.Profiles, one.ref)
		if !is || slices.Contains(to.ExcludeProfiles, one.ref) {
			continue
		}
		for id := range one.here {
			if !slices.Contains(to.ExcludeConnections, id) {
				here++
			}
		}
		for id := range one.there {
			if !slices.Contains(to.ExcludeConnections, id) {
				there++
			}
		}
	}
	return here, there
}

// share says whether two people have a room in common.
func (v *village) share(a, b event.Profile) bool {
	for _, members := range v.rooms {
		if members[a] && members[b] {
			return true
		}
	}
	return false
}
