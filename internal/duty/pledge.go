package duty

import (
	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
)

// Pledge is what the duties of events will take of their tenants' shares of state, before the events
// are accepted: what would be too much is refused and nothing is stored. Once a duty is open, its judge
// has taken what it takes.
type Pledge struct {
	pools *allowance.Pools // static
	taken map[string]int64 // bytes by tenant; nil: none, as a rule
}

// NewPledge makes one that has taken nothing.
func NewPledge(pools *allowance.Pools) *Pledge {
	return &Pledge{pools: pools}
}

// Add takes what the duties of events will take: of those with a deadline, each for as many recipients
// as count says. allowance.ErrTenant: not all may be taken.
func (p *Pledge) Add(events []*event.Event, count func(*event.Event) int) error {
	for _, e := range events {
		if e.Deadline == 0 {
			continue
		}
		bytes := weight(e, count(e))
		if !p.pools.State.Take(e.TenantID, bytes) {
			return allowance.ErrTenant
		}
		if p.taken == nil {
			p.taken = map[string]int64{}
		}
		p.taken[e.TenantID] += bytes
	}
	return nil
}

// Close gives all of it back, once.
func (p *Pledge) Close() {
	for tenant, bytes := range p.taken {
		p.pools.State.Give(tenant, bytes)
	}
	p.taken = nil
}
