package room

import (
	"math"
	"slices"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// maxPast is how many ended stays a tenant's rooms remember.
const maxPast = 1 << 20

// remember adds ended stays of one profile in one room.
func (m *Memberships[C]) remember(key belonging, ended []span) {
	stays := m.past.Get(key)
	if stays == nil {
		m.endings += key.bytes()
	}
	m.endings += spanBytes * int64(len(ended))
	m.ended += len(ended)
	m.past.Put(key, append(stays, ended...))
	m.oldest = min(m.oldest, ended[0].until)
	m.leftAt(key.profile, ended[len(ended)-1].until)
}

// leftAt notes that a profile left a room at a place.
func (m *Memberships[C]) leftAt(ref event.Profile, place uint64) {
	was, known := m.left.Find(ref)
	if !known {
		m.endings += ref.Bytes()
	}
	m.oldest, m.newest = min(m.oldest, place), max(m.newest, place)
	m.left.Put(ref, max(was, place))
}

// Left is the place before which a replay for a profile may lack what was for it: of a room that
// it has left it is sent nothing any more.
func (m *Memberships[C]) Left(ref event.Profile) uint64 {
	return max(m.left.Get(ref), m.forgot, m.unsure)
}

// forget drops the first n stays of one profile in one room.
func (m *Memberships[C]) forget(key belonging, n int) {
	stays := m.past.Get(key)
	m.ended -= n
	m.endings -= spanBytes * int64(n)
	if n < len(stays) {
		m.past.Put(key, slices.Clone(stays[n:]))
	} else if stays != nil {
		m.past.Delete(key)
		m.endings -= key.bytes()
	}
}

// spanBytes is of one in a list that grows.
const spanBytes = 2 * 16

// ForgetPast forgets all stays that have ended, and says whether there were any, or places at which
// some did. A client that resumes from before the end of the last one is told of a gap.
func (m *Memberships[C]) ForgetPast() bool {
	remembered := m.ended+m.cut.Len()+m.left.Len() > 0
	if remembered {
		m.forgot = max(m.forgot, m.newest)
	}
	m.past.Clear() // each may be walked through: see Prune
	m.left.Clear()
	m.cut.Clear()
	m.ended, m.endings = 0, 0
	m.oldest, m.newest = 0, 0
	return remembered
}

// cutShort notes up to which place a profile's stays in a room may be missing; 0: none is.
func (m *Memberships[C]) cutShort(key belonging, place uint64) {
	_, was := m.cut.Find(key)
	switch {
	case place == 0 && was:
		m.cut.Delete(key)
		m.endings -= key.bytes()
	case place > 0:
		if !was {
			m.endings += key.bytes()
		}
		m.cut.Put(key, place)
		m.leftAt(key.profile, place)
	}
}

// Belonging is what is known of a profile in a room.
func (m *Memberships[C]) Belonging(room event.Room, p event.Profile) Membership {
	b := Membership{Profile: p, Forgot: max(m.forgot, m.cut.Get(belonging{p, room}))}
	for _, s := range m.past.Get(belonging{p, room}) {
		b.Stays = append(b.Stays, history.Stay{Room: room, From: s.from, Until: s.until})
	}
	if bond, ok := m.bond(room, p); ok {
		b.Member = true
		b.Stays = append(b.Stays, history.Stay{Room: room, From: bond.since, Until: math.MaxUint64})
	}
	return b
}

// Was says whether a profile belonged to a room at a place. known is false where that is longer ago
// than what is remembered.
func (m *Memberships[C]) Was(room event.Room, p event.Profile, place uint64) (was, known bool) {
	b := m.Belonging(room, p)
	was = slices.ContainsFunc(b.Stays, func(s history.Stay) bool { return s.From < place && place <= s.Until })
	return was, was || place > max(b.Forgot, m.pruned, m.unsure)
}

// Former are those whose stay in a room has ended since a place, as far as is remembered: they belonged
// to it then. One may come twice, and may be back. Now and then it calls rest, as Prune does.
func (m *Memberships[C]) Former(room event.Room, place uint64, rest func() bool) (former []event.Profile) {
	if place > m.newest {
		return nil
	}
	looked := 0
	for key, stays := range m.past.All() {
		within := slices.ContainsFunc(stays, func(s span) bool { return s.from < place && place <= s.until })
		if key.room == room && within {
			former = append(former, key.profile)
		}
		if looked++; looked%prunePiece == 0 && !rest() {
			break
		}
	}
	return former
}

// Set replaces what is known of a profile in a room.
func (m *Memberships[C]) Set(room event.Room, b Membership) {
	past, member, from := b.Stays, b.Member && len(b.Stays) > 0, uint64(0)
	if member {
		from, past = past[len(past)-1].From, past[:len(past)-1]
	}
	if bond, was := m.bond(room, b.Profile); was && (!member || bond.since != from) {
		m.Remove(room, b.Profile, 0) // leaves no stay behind
	}
	if member {
		m.Add(room, b.Profile, from)
	}
	key := belonging{b.Profile, room}
	if p := m.people.Get(b.Profile); p != nil {
		m.moved(p)
	}
	m.forget(key, len(m.past.Get(key)))
	m.cutShort(key, b.Forgot)
	if len(past) > 0 && m.ended+len(past) > maxPast {
		m.forgot = max(m.forgot, past[len(past)-1].Until)
	} else if len(past) > 0 {
		spans := make([]span, len(past))
		for i, s := range past {
			spans[i] = span{s.From, s.Until}
		}
		m.remember(key, spans)
	}
}

// Restart begins with another history: whoever belongs somewhere does so from its beginning
// on. It does nothing if the places are of that history already.
func (m *Memberships[C]) Restart(of history.Epoch) {
	if m.tag == of.Tag {
		return
	}
	m.tag = of.Tag
	m.ForgetPast()
	for p, b := range m.bonds.All() {
		b.since = 0
		m.moved(p.person)
	}
	for _, c := range m.circles.All() {
		c.joined = 0
	}
	m.forgot, m.pruned, m.unsure = 0, 0, 0
}

// Clear forgets all memberships, also those that have ended.
func (m *Memberships[C]) Clear() {
	m.ForgetPast()
	for _, c := range m.circles.All() {
		for len(c.members) > 0 {
			m.Remove(c.room, c.members[len(c.members)-1].ref, 0) // leaves no stay behind
		}
	}
}

// Forgotten is the place before which a replay for a profile may be incomplete: earlier stays in
// rooms that it left and returned to may be forgotten.
func (m *Memberships[C]) Forgotten(ref event.Profile) uint64 {
	place := m.forgot
	if m.cut.Len() > 0 {
		for _, c := range m.circlesOf(ref) {
			place = max(place, m.cut.Get(belonging{ref, c.room}))
		}
	}
	return place
}

// prunePiece is how many stays Prune looks at before it lets others have the lock.
const prunePiece = 1000

// Prune forgets the stays that ended before reach, the place that the history still reaches. Now
// and then it calls rest, which lets others change the memberships meanwhile; false ends it.
func (m *Memberships[C]) Prune(reach uint64, rest func() bool) {
	if m.forgot <= reach {
		m.pruned, m.forgot = max(m.pruned, m.forgot), 0
	}
	if reach < m.oldest {
		return
	}
	m.oldest = math.MaxUint64 // of those that are looked at and stay, and of what comes meanwhile
	looked, tag := 0, m.tag
	goOn := func() bool {
		looked++
		return looked%prunePiece > 0 || rest() && m.tag == tag
	}
	for key := range m.cut.All() {
		m.pruneCut(key, reach)
		if !goOn() {
			return
		}
	}
	for ref := range m.left.All() {
		m.pruneLeft(ref, reach)
		if !goOn() {
			return
		}
	}
	for key := range m.past.All() {
		m.prunePast(key, reach)
		if !goOn() {
			return
		}
	}
}

func (m *Memberships[C]) pruneCut(key belonging, reach uint64) {
	switch place, there := m.cut.Find(key); {
	case !there: // it went meanwhile
	case place > reach:
		m.oldest = min(m.oldest, place)
	default:
		m.pruned = max(m.pruned, place)
		m.cutShort(key, 0)
	}
}

func (m *Memberships[C]) pruneLeft(ref event.Profile, reach uint64) {
	switch place, there := m.left.Find(ref); {
	case !there:
	case place > reach:
		m.oldest = min(m.oldest, place)
	default:
		m.left.Delete(ref)
		m.endings -= ref.Bytes()
	}
}

func (m *Memberships[C]) prunePast(key belonging, reach uint64) {
	stays := m.past.Get(key)
	n := 0
	for n < len(stays) && stays[n].until <= reach {
		n++
	}
	if n < len(stays) {
		m.oldest = min(m.oldest, stays[n].until)
	}
	if n > 0 {
		m.pruned = max(m.pruned, stays[n-1].until)
		m.forget(key, n)
	}
}

// Unsure notes that memberships before a place may be unknown to this hub.
func (m *Memberships[C]) Unsure(place uint64) { m.unsure = max(m.unsure, place) }

// Reader is a profile as a reader of its tenant's history.
func (m *Memberships[C]) Reader(p event.Profile) *history.Reader {
	return &history.Reader{Profile: p, Rooms: m.known(p), StaysFrom: max(m.pruned, m.unsure), RoomsFrom: m.unsure}
}

// manyRooms is how many rooms a profile has when finding its stays takes long, and so does coming
// to each room. Its stays are then kept until its rooms change. Those that are pruned meanwhile do
// no harm.
const manyRooms = 1000

// stayBytes is what a stay takes that is kept so.
const stayBytes = 48

// known is stays, found once of who is in many rooms.
func (m *Memberships[C]) known(ref event.Profile) []history.Stay {
	p := m.people.Get(ref)
	if p == nil || len(p.circles) < manyRooms {
		return m.stays(ref)
	}
	if p.stays == nil {
		p.stays = m.stays(ref)
		m.bytes += stayBytes * int64(cap(p.stays))
	}
	return p.stays
}

// moved says that a person's rooms change.
func (m *Memberships[C]) moved(p *Person[C]) {
	m.bytes -= stayBytes * int64(cap(p.stays))
	p.stays = nil
}

// stays are the times that p has spent in the rooms it belongs to now.
func (m *Memberships[C]) stays(ref event.Profile) (stays []history.Stay) {
	for _, c := range m.circlesOf(ref) {
		if m.ended > 0 {
			for _, s := range m.past.Get(belonging{ref, c.room}) {
				stays = append(stays, history.Stay{Room: c.room, From: s.from, Until: s.until})
			}
		}
		stays = append(stays, history.Stay{Room: c.room, From: m.bonds.Get(pair[C]{c, m.people.Get(ref)}).since, Until: math.MaxUint64})
	}
	return stays
}
