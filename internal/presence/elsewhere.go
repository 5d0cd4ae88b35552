package presence

import (
	"time"

	"realtimehub/internal/event"
)

// Came says that somebody is connected to another hub, who was last active there at a time. It
// is no news of who was there before this hub heard of it. The name is kept as long as who is
// connected there: others need no copy.
func (p *People) Came(a event.TenantProfile, usedAt time.Time, news bool) (name *event.ProfileText) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.comesLocked(a.Tenant, a.Profile)
	who.usedElsewhere(momentOf(usedAt))
	who.tidy()
	p.reviseLocked(who, time.Now())
	if !news {
		who.announced = who.status
	}
	return &who.name
}

// Used says that somebody was active on another hub, at the latest at a time.
func (p *People) Used(a event.TenantProfile, usedAt time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.findLocked(a.Tenant, a.Profile); who != nil {
		who.usedElsewhere(momentOf(usedAt))
		p.reviseLocked(who, time.Now())
	}
}

// Went says that a connection on another hub was there until a time, and when the others that
// its profile has there were used last; zero: there are none.
func (p *People) Went(a event.TenantProfile, usedAt, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.findLocked(a.Tenant, a.Profile); who != nil {
		who.usedElsewhere(momentOf(usedAt))
		p.leftLocked(who, at)
	}
}

// Forget drops all that other hubs told of a tenant: it is not known any more.
func (p *People) Forget(tenant string) {
	now := time.Now()
	p.each(tenant, false, func(who *profile) {
		if who.elsewhere == never {
			return
		}
		who.usedElsewhere(never)
		if !who.connected() {
			who.leftBy(now.Add(-p.cfg.Grace))
		}
		p.reviseLocked(who, now)
		who.announced = who.status
	})
}
