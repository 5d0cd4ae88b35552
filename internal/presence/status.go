package presence

import (
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

const seenTTL = 24 * time.Hour // so long an offline profile's last activity is remembered

// tenantBytes is what a tenant takes, beside its name and its people.
const tenantBytes = 600

// bytes is what is kept of a tenant, beside its people.
func (t *tenant) bytes() int64 { return tenantBytes + sized.Text(t.name) }

// reviseLocked sets the status that follows from somebody's connections, and when to
// look again.
func (p *People) reviseLocked(who *profile, now time.Time) {
	active := who.elsewhere
	if m := who.more; m != nil {
		active = max(active, m.conns.usedAt(), m.spokeAt)
		m.activeAt = max(m.activeAt, active)
	}
	status, again := p.statusLocked(who, active.time(), now)
	// A later time waits until the present one has come: activity is frequent.
	if who.due.At().IsZero() || again.IsZero() || again.Before(who.due.At()) {
		p.due.Set(who, again)
	}
	if status != who.status {
		p.changeLocked(who, status)
	}
}

// statusLocked is the status that somebody has now who was last active at a time, and when it
// has to be looked at again; the zero time: never.
func (p *People) statusLocked(who *profile, active, now time.Time) (status state, again time.Time) {
	if !who.connected() {
		m := who.known()
		if back := m.leftAt.Add(p.cfg.Grace); back.After(now) {
			return who.status, back // a page reload is no event
		}
		if m.seen != nil {
			again = m.leftAt.Add(seenTTL)
		}
		return isOffline, again
	}
	if p.cfg.IdleTimeout <= 0 {
		return isOnline, time.Time{}
	}
	if idle := active.Add(p.cfg.IdleTimeout); idle.After(now) {
		return isOnline, idle
	}
	return isAway, time.Time{}
}

// changeLocked gives somebody another status.
func (p *People) changeLocked(who *profile, status state) {
	t := who.tenant
	t.count[who.status]--
	t.count[status]++
	p.count[who.status]--
	p.count[status]++
	from := who.crowd()
	who.status = status
	if to := who.crowd(); to != from {
		from.remove(who)
		to.add(who)
	}
	if !who.dirty {
		who.dirty = true
		p.dirty = append(p.dirty, who)
	}
	if status == isOffline {
		p.cfg.Offline(event.TenantProfile{Tenant: t.name, Profile: who.Key()})
		if !who.leaving {
			who.leaving = true
			p.left = append(p.left, who)
		}
	}
}

// rememberLocked keeps who has gone offline, for a time, in the place of those of its
// tenant who left first where there is no room for more.
func (p *People) rememberLocked(who *profile) {
	who.leaving = false
	if who.status != isOffline || who.known().seen != nil || who.tenant.profiles.Get(who.Key()) != who {
		return
	}
	t, m := who.tenant, who.change()
	n := who.bytes() + seenBytes
	for !p.cfg.Pools.Seen.Take(t.name, n) {
		first := t.seen.Front()
		if first == nil {
			p.dropLocked(who)
			return
		}
		p.forgetLocked(first.Value.(*profile))
	}
	p.cfg.Pools.State.Force(t.name, seenBytes)
	m.seen = t.seen.PushBack(who)
	p.due.Set(who, m.leftAt.Add(seenTTL))
}

// returnedLocked ends that somebody is remembered as offline.
func (p *People) returnedLocked(who *profile) {
	seen := who.known().seen
	if seen == nil {
		return
	}
	t := who.tenant
	t.seen.Remove(seen)
	who.more.seen = nil
	p.cfg.Pools.Seen.Give(t.name, who.bytes()+seenBytes)
	p.cfg.Pools.State.Give(t.name, seenBytes)
}

// forgetLocked drops who is remembered.
func (p *People) forgetLocked(who *profile) {
	p.returnedLocked(who)
	p.dropLocked(who)
}

// dropLocked drops who is offline.
func (p *People) dropLocked(who *profile) {
	t, less := who.tenant, who.bytes()
	p.due.Set(who, time.Time{})
	t.profiles.Delete(who)
	who.crowd().remove(who)
	if t.profiles.Len() == 0 {
		p.tenants.Delete(t.name)
		less += t.bytes()
	}
	p.cfg.Pools.State.Give(t.name, less)
}
