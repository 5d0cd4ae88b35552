package presence

import (
	"container/list"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// profile is somebody who is kept. There may be very many who are connected to other hubs only: of
// them nothing else is kept.
type profile struct {
	due       due.Item
	tenant    *tenant
	name      event.ProfileText
	more      *more  // nil: all of it is zero
	elsewhere moment // the latest activity of connections to other hubs; never: there are none
	place     int32  // in its crowd
	status    state
	announced state // at the last Advance
	dirty     bool  // in People.dirty
	leaving   bool  // in People.left
}

// more is what is kept besides of somebody who has connections to this hub, has closed one to any hub,
// or types.
type more struct {
	conns    recent        // those to this hub
	spokeAt  moment        // activity that is no connection's own: typing
	activeAt moment        // the latest activity ever, but for elsewhere
	leftAt   time.Time     // when the last connection closed, since one opened
	seen     *list.Element // in tenant.seen
}

// What is kept of a profile takes in bytes, beside its name and with its places in tables and
// lists, of which those grow by a quarter.
const (
	profileBytes = 80 + 2*17 + 3*10
	moreBytes    = 64
	seenBytes    = 64 // of who is remembered
)

// bytes is what is kept of a profile.
func (p *profile) bytes() int64 {
	bytes := profileBytes + sized.Text(string(p.name))
	if p.more != nil {
		bytes += moreBytes
	}
	return bytes
}

// Key implements sized.Keyed.
func (p *profile) Key() event.Profile { return p.name.Profile() }

// Due implements due.Owner.
func (p *profile) Due() *due.Item { return &p.due }

// known is p.more, to be read.
func (p *profile) known() more {
	if p.more == nil {
		return more{}
	}
	return *p.more
}

// change is p.more, to be changed. It is made where there is none.
func (p *profile) change() *more {
	if p.more == nil {
		p.more = &more{}
		p.tenant.pools.State.Force(p.tenant.name, moreBytes)
	}
	return p.more
}

// tidy drops p.more of somebody who has come, if it says nothing any more.
func (p *profile) tidy() {
	m := p.known()
	says := m.conns.last != nil || m.spokeAt != never || m.activeAt > p.elsewhere
	if p.more != nil && !says {
		p.more = nil
		p.tenant.pools.State.Give(p.tenant.name, moreBytes)
	}
}

// connected says whether somebody has a connection, on whichever hub.
func (p *profile) connected() bool { return p.elsewhere != never || p.known().conns.last != nil }

// activeAt is the latest activity ever.
func (p *profile) activeAt() moment { return max(p.elsewhere, p.known().activeAt) }

// usedElsewhere notes the latest activity of connections to other hubs. It may be earlier than it
// was: a connection may have gone.
func (p *profile) usedElsewhere(at moment) {
	if at < p.elsewhere {
		m := p.change()
		m.activeAt = max(m.activeAt, p.elsewhere)
	}
	p.elsewhere = at
}

// moment is a time, in Unix nanoseconds: there are many.
type moment int64

// never is before every other.
const never moment = 0

func momentOf(at time.Time) moment {
	if at.IsZero() {
		return never
	}
	return moment(at.UnixNano())
}

func (m moment) time() time.Time {
	if m == never {
		return time.Time{}
	}
	return time.Unix(0, int64(m))
}

// state is a Status where there are many.
type state uint8

const (
	isOffline state = iota
	isOnline
	isAway
)

func (s state) status() Status { return [...]Status{Offline, Online, Away}[s] }

// counts are how many profiles each state has.
type counts [3]int
