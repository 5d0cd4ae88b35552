package presence

import (
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

const seenTTL = 24 * time.Hour // so long an offline profile's last activity is remembered

// What is kept of a tenant and of a profile takes in bytes, beside its names and with
// its places in tables.
const (
	tenantBytes  = 600
	profileBytes = 176 + 2*41 + 2*16 + 2*8
	seenBytes    = 64 // of who is offline more
)

// bytes is what is kept of a tenant, beside its people.
func (t *tenant) bytes() int64 { return tenantBytes + sized.Text(t.name) }

// bytes is what is kept of a profile.
func (p *profile) bytes() int64 { return profileBytes + p.ref.Bytes() }

// reviseLocked sets the status that follows from somebody's connections, and when to
// look again.
func (p *People) reviseLocked(who *profile, now time.Time) {
	active := max(who.conns.usedAt(), who.elsewhere, who.spokeAt)
	who.activeAt = max(who.activeAt, active)
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
func (p *People) statusLocked(who *profile, active, now time.Time) (status Status, again time.Time) {
	if !who.connected() {
		if back := who.leftAt.Add(p.cfg.Grace); back.After(now) {
			return who.status, back // a page reload is no event
		}
		if who.seen != nil {
			again = who.leftAt.Add(seenTTL)
		}
		return Offline, again
	}
	if p.cfg.IdleTimeout <= 0 {
		return Online, time.Time{}
	}
	if idle := active.Add(p.cfg.IdleTimeout); idle.After(now) {
		return Online, idle
	}
	return Away, time.Time{}
}

// changeLocked gives somebody another status.
func (p *People) changeLocked(who *profile, status Status) {
	t := who.tenant
	t.count[who.status]--
	t.count[status]++
	p.count[who.status]--
	p.count[status]++
	who.crowd().remove(who)
	who.status = status
	who.crowd().add(who)
	if !who.dirty {
		who.dirty = true
		p.dirty = append(p.dirty, who)
	}
	if status == Offline {
		p.cfg.Offline(event.TenantProfile{Tenant: t.name, Profile: who.ref})
		p.left = append(p.left, who)
	}
}

// rememberLocked keeps who has gone offline, for a time, in the place of those of its
// tenant who left first where there is no room for more.
func (p *People) rememberLocked(who *profile) {
	if who.status != Offline || who.seen != nil || who.tenant.profiles.Get(who.ref) != who {
		return
	}
	t, n := who.tenant, who.bytes()+seenBytes
	for !p.cfg.Pools.Seen.Take(t.name, n) {
		first := t.seen.Front()
		if first == nil {
			p.dropLocked(who)
			return
		}
		p.forgetLocked(first.Value.(*profile))
	}
	p.cfg.Pools.State.Force(t.name, seenBytes)
	who.seen = t.seen.PushBack(who)
	p.due.Set(who, who.leftAt.Add(seenTTL))
}

// returnedLocked ends that somebody is remembered as offline.
func (p *People) returnedLocked(who *profile) {
	if who.seen == nil {
		return
	}
	t := who.tenant
	t.seen.Remove(who.seen)
	who.seen = nil
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
	t.profiles.Delete(who.ref)
	who.crowd().remove(who)
	if t.profiles.Len() == 0 {
		p.tenants.Delete(t.name)
		less += t.bytes()
	}
	p.cfg.Pools.State.Give(t.name, less)
}
