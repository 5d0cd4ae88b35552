package presence

import (
	"slices"
	"time"

	"realtimehub/internal/event"
)

// Change is one profile's.
type Change struct {
	Profile      event.Profile `json:"profile"`
	Status       Status        `json:"status"`
	Previous     Status        `json:"previous"`
	LastActiveAt string        `json:"lastActiveAt"`
}

// News is what has changed in one tenant.
type News struct {
	Changes      []Change
	Known        []event.Profile // whose change is no news, if these are asked for
	Online, Away int             // how many there are now
}

// Then is what has changed when more has changed after it: of each person once, and not of who is
// again what they were. It takes what it needs of both, and leaves Known out.
func (n *News) Then(more *News) *News {
	before := map[event.Profile]Status{} // of those who have not changed again
	for _, c := range n.Changes {
		before[c.Profile] = c.Previous
	}
	var later []Change
	for _, c := range more.Changes {
		if was, again := before[c.Profile]; again {
			c.Previous = was
			delete(before, c.Profile)
		}
		if c.Status != c.Previous {
			later = append(later, c)
		}
	}
	once := slices.DeleteFunc(n.Changes, func(c Change) bool {
		_, once := before[c.Profile]
		return !once
	})
	return &News{Changes: append(once, later...), Online: more.Online, Away: more.Away}
}

// Advance moves those whose time has come and returns what has changed since the last time, by
// tenant. known asks for those as well whose change is no news: they were there before this hub
// heard of them, or are what they were.
func (p *People) Advance(now time.Time, known bool) map[string]*News {
	for more := true; more; {
		more = p.move(now)
	}
	p.mu.Lock()
	dirty, left := p.dirty, p.left
	p.dirty, p.left = nil, nil
	p.mu.Unlock()
	all := map[string]*News{}
	p.inPieces(dirty, func(who *profile) { who.note(all, known) })
	p.inPieces(left, p.rememberLocked)
	return all
}

// move moves up to a piece of what is due, and says whether there may be more.
func (p *People) move(now time.Time) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range piece {
		who, ok := p.due.Next(now)
		if !ok {
			return false
		}
		p.due.Set(who, time.Time{})
		if who.known().seen != nil && now.Sub(who.more.leftAt) >= seenTTL {
			p.forgetLocked(who)
		} else {
			p.reviseLocked(who, now)
		}
	}
	return true
}

// note adds to the news of all tenants what has changed of somebody who was dirty.
func (p *profile) note(all map[string]*News, known bool) {
	p.dirty = false
	same := p.status == p.announced // and back, since the last time; or it was known
	if same && !known {
		return
	}
	t := p.tenant
	n := all[t.name]
	if n == nil {
		n = &News{Online: t.count[isOnline], Away: t.count[isAway]}
		all[t.name] = n
	}
	if same {
		n.Known = append(n.Known, p.Key())
		return
	}
	n.Changes = append(n.Changes, Change{
		Profile: p.Key(), Status: p.status.status(), Previous: p.announced.status(), LastActiveAt: event.FormatTime(p.activeAt().time()),
	})
	p.announced = p.status
}
