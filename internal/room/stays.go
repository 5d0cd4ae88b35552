package room

import (
	"math"
	"slices"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sized"
)

// maxPast is how many ended stays a tenant's rooms remember.
const maxPast = 1 << 20

// remember adds ended stays of one profile in one room.
func (r *Memberships[C]) remember(key belonging, ended []span) {
	stays := r.past.Get(key)
	if stays == nil {
		r.bytes += key.bytes()
	}
	r.bytes += spanBytes * int64(len(ended))
	r.ended += len(ended)
	r.past.Put(key, append(stays, ended...))
}

// forget drops the first n stays of one profile in one room.
func (r *Memberships[C]) forget(key belonging, n int) {
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

// ForgetPast forgets all stays that have ended: who resumes from before the last of their
// ends is told of a gap. It says whether there were any.
func (r *Memberships[C]) ForgetPast() bool {
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
func (r *Memberships[C]) cutShort(key belonging, place uint64) {
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
func (r *Memberships[C]) Belonging(room event.Room, p event.Profile) Membership {
	b := Membership{Profile: p, Forgot: max(r.forgot, r.cut.Get(belonging{p, room}))}
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
func (r *Memberships[C]) Set(room event.Room, b Membership) {
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
func (r *Memberships[C]) Restart(of history.Epoch) {
	if r.tag == of.Tag {
		return
	}
	r.tag = of.Tag
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
func (r *Memberships[C]) Clear() {
	r.ForgetPast()
	for _, c := range r.circles.All() {
		for len(c.members) > 0 {
			r.Remove(c.room, c.members[len(c.members)-1].ref, 0) // leaves no stay behind
		}
	}
}

// Forgotten is the place before which a replay for a profile may lack what was said to
// rooms that it has left and returned to.
func (r *Memberships[C]) Forgotten(ref event.Profile) uint64 {
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
func (r *Memberships[C]) Prune(oldest uint64) {
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
func (r *Memberships[C]) Unsure(place uint64) { r.unsure = max(r.unsure, place) }

// Reader is who p is as one who reads a tenant's history.
func (r *Memberships[C]) Reader(p event.Profile) *history.Reader {
	return &history.Reader{Profile: p, Rooms: r.known(p), StaysFrom: max(r.pruned, r.unsure), RoomsFrom: r.unsure}
}

// manyRooms has so many that to find the stays of who is in all of them takes long: they
// are kept until its rooms change. Those that are pruned meanwhile do no harm.
const manyRooms = 1000

// stayBytes is what a stay takes that is kept so.
const stayBytes = 48

// known is stays, found once of who is in many rooms.
func (r *Memberships[C]) known(ref event.Profile) []history.Stay {
	p := r.people.Get(ref)
	if p == nil || len(p.circles) < manyRooms {
		return r.stays(ref)
	}
	if p.stays == nil {
		p.stays = r.stays(ref)
		r.bytes += stayBytes * int64(cap(p.stays))
	}
	return p.stays
}

// moved says that a person's rooms change.
func (r *Memberships[C]) moved(p *Person[C]) {
	r.bytes -= stayBytes * int64(cap(p.stays))
	p.stays = nil
}

// stays are the times that p has spent in the rooms it belongs to now.
func (r *Memberships[C]) stays(ref event.Profile) (stays []history.Stay) {
	for _, c := range r.circlesOf(ref) {
		if r.ended > 0 {
			for _, s := range r.past.Get(belonging{ref, c.room}) {
				stays = append(stays, history.Stay{Room: c.room, From: s.from, Until: s.until})
			}
		}
		stays = append(stays, history.Stay{Room: c.room, From: r.bonds.Get(pair[C]{c, r.people.Get(ref)}).since, Until: math.MaxUint64})
	}
	return stays
}
