package presence

import (
	"container/list"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Status is a profile's presence, all its connections together.
type Status string

// The statuses.
const (
	Online  Status = "online"  // some connection was active within the idle timeout
	Away    Status = "away"    // connections, all idle
	Offline Status = "offline" // no connection, and the grace is over
)

// Is says whether a status is the one that is asked for; "" asks for any but Offline.
func (s Status) Is(asked Status) bool { return s == asked || asked == "" && s != Offline }

// Config is what People need to know.
type Config struct {
	IdleTimeout time.Duration    // after which a connection without activity is idle; 0: never
	Grace       time.Duration    // that somebody without a connection may take to be back
	Pools       *allowance.Pools // where it is counted what is kept

	// Offline is told who has gone offline, with the lock held; it calls nothing of People.
	Offline func(event.TenantProfile)
}

// People are the profiles of all tenants and the status of each. Somebody is there once a
// connection is, and for a time after the last one has closed.
type People struct {
	cfg Config // static

	mu sync.Mutex
	// Guarded by mu.
	tenants sized.Table[string, *tenant]
	due     due.Queue[*profile]
	dirty   []*profile // status may differ from what was announced
	left    []*profile // offline since the last Advance
	count   counts
}

// New makes them; nobody is there yet.
func New(cfg Config) *People { return &People{cfg: cfg} }

// tenant is the people of one tenant.
type tenant struct {
	name     string
	pools    *allowance.Pools // where it is counted what is kept
	profiles sized.Set[event.Profile, *profile]
	present  crowd     // those who are not offline
	absent   crowd     // those who are
	seen     list.List // of *profile: those of them who are remembered, first who left first
	count    counts
}

// Connected says that a connection is about to open.
func (p *People) Connected(c *delivery.Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.comesLocked(c.Tenant, c.Profile)
	who.change().conns.add(c)
	p.reviseLocked(who, time.Now())
}

// comesLocked is somebody who has a connection now.
func (p *People) comesLocked(tenant string, ref event.Profile) *profile {
	who := p.ensureLocked(tenant, ref)
	p.returnedLocked(who)
	if who.more != nil {
		who.more.leftAt = time.Time{}
	}
	return who
}

// ensureLocked finds somebody, or begins to keep them as offline.
func (p *People) ensureLocked(name string, ref event.Profile) *profile {
	t, bytes := p.tenants.Get(name), int64(0)
	if t == nil {
		t = &tenant{name: name, pools: p.cfg.Pools}
		p.tenants.Put(name, t)
		bytes += t.bytes()
	}
	who := t.profiles.Get(ref)
	if who == nil {
		who = &profile{tenant: t, name: ref.Text(), status: isOffline, announced: isOffline}
		t.profiles.Put(who)
		t.absent.add(who)
		bytes += who.bytes()
	}
	if bytes > 0 {
		p.cfg.Pools.State.Force(name, bytes) // with a connection that was admitted
	}
	return who
}

// Disconnected says that a connection has closed; who was drained will be back.
func (p *People) Disconnected(c *delivery.Connection) {
	if !c.SentAway() {
		p.Left(c, time.Now())
	}
}

// Left says that a connection was there until a time.
func (p *People) Left(c *delivery.Connection, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.findLocked(c.Tenant, c.Profile)
	if who == nil {
		return
	}
	if m := who.more; m != nil && m.conns.has(c) {
		m.conns.remove(c)
	}
	p.leftLocked(who, at)
}

// leftLocked notes that one of somebody's connections was there until a time.
func (p *People) leftLocked(who *profile, at time.Time) {
	now := time.Now()
	if who.connected() && at.After(now) {
		at = now // it need not be back
	}
	who.leftBy(at)
	p.reviseLocked(who, now)
}

// Touch says that a connection was active at a time, which is now.
func (p *People) Touch(c *delivery.Connection, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Active(now)
	if who := p.findLocked(c.Tenant, c.Profile); who != nil && who.more != nil && who.more.conns.has(c) {
		who.more.conns.remove(c)
		who.more.conns.add(c)
		p.reviseLocked(who, now)
	}
}

// Spoke says that a profile is active now, on whichever connection.
func (p *People) Spoke(a event.TenantProfile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.findLocked(a.Tenant, a.Profile); who != nil {
		now := time.Now()
		who.change().spokeAt = momentOf(now)
		p.reviseLocked(who, now)
	}
}

func (p *People) findLocked(tenant string, ref event.Profile) *profile {
	if t := p.tenants.Get(tenant); t != nil {
		return t.profiles.Get(ref)
	}
	return nil
}

// leftBy notes when a connection closed: the last to be told of need not be the last
// that closed.
func (p *profile) leftBy(at time.Time) {
	if m := p.change(); at.After(m.leftAt) {
		m.leftAt = at
	}
}
