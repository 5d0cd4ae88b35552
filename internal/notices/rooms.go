package notices

import (
	"slices"
	"sync"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/quota"
	"realtimehub/internal/sized"
)

// Members know who belongs where.
type Members interface {
	// RoomsOf are the rooms that a few profiles belong to; one may come twice.
	RoomsOf(tenant string, profiles []event.Profile) []event.Room
	// AnyMember says whether is holds for some member of a room.
	AnyMember(tenant string, room event.Room, is func(event.Profile) bool) bool
}

// RoomsConfig is what Rooms need to know.
type RoomsConfig struct {
	Members Members
	Present func(tenant string, p event.Profile) bool // says whether somebody was announced, and is not offline
	Tell    func(tenant string, room event.Room, occupied bool, since time.Time)
	State   *quota.Pool[string] // where it is counted what is kept, by tenant
}

// Rooms knows which rooms are occupied: of their members somebody is not offline.
//
// Its lock is a leaf.
type Rooms struct {
	cfg RoomsConfig // static

	mu sync.Mutex
	// Guarded by mu.
	occupied sized.Table[place, struct{}]
	changed  map[place]bool // to be looked at; true: with news, if there are any
}

// place is a room and whose it is.
type place struct {
	tenant string
	room   event.Room
}

// placeBytes is what an occupied room takes beside its texts.
const placeBytes = 2 * 49

// NewRooms makes them.
func NewRooms(cfg RoomsConfig) *Rooms { return &Rooms{cfg: cfg, changed: map[place]bool{}} }

// Moved says that somebody has joined a room or left it. It may be called with the tenant locked.
func (r *Rooms) Moved(tenant string, room event.Room, p event.Profile) {
	present, at := r.cfg.Present(tenant, p), place{tenant, room}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, occupied := r.occupied.Find(at); occupied || present {
		r.changed[at] = true
	}
}

// People says that some have come or have gone offline; with quiet set this hub has only now
// learned of it, and it is no news.
func (r *Rooms) People(tenant string, profiles []event.Profile, quiet bool) {
	for some := range slices.Chunk(profiles, peopleAtOnce) {
		r.change(tenant, r.cfg.Members.RoomsOf(tenant, some), !quiet)
	}
}

// peopleAtOnce is of how many the rooms are listed at a time: each may be in thousands.
const peopleAtOnce = 100

// change has rooms be looked at, for news if there are any.
func (r *Rooms) change(tenant string, rooms []event.Room, news bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range rooms {
		at := place{tenant, room}
		r.changed[at] = r.changed[at] || news
	}
}

// Look tells of the rooms that were occupied or vacated since it was called last.
func (r *Rooms) Look(now time.Time) {
	r.mu.Lock()
	changed := r.changed
	if len(changed) > 0 {
		r.changed = map[place]bool{}
	}
	r.mu.Unlock()
	for at, news := range changed {
		is := r.cfg.Members.AnyMember(at.tenant, at.room, func(p event.Profile) bool { return r.cfg.Present(at.tenant, p) })
		if r.set(at, is) && news {
			r.cfg.Tell(at.tenant, at.room, is, now)
		}
	}
}

// set notes whether a room is occupied, and says whether that is another than before.
func (r *Rooms) set(at place, is bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, was := r.occupied.Find(at)
	bytes := placeBytes + sized.Text(at.room.ID)
	switch {
	case is && !was:
		r.occupied.Put(at, struct{}{})
		r.cfg.State.Force(at.tenant, bytes)
	case !is && was:
		r.occupied.Delete(at)
		r.cfg.State.Give(at.tenant, bytes)
	}
	return is != was
}
