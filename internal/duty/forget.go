package duty

import (
	"time"

	"realtimehub/internal/due"
)

// Bounds of what is kept of what came of events.
const (
	resultsPart = 64              // of the memory for state, for each tenant, as a divisor
	mostResults = 64 << 20        // bytes for each tenant, where that has no limit
	knownFor    = 5 * time.Minute // after its deadline at least, or Config.Repeats
	forgetPiece = 1000            // events that have grown too old are forgotten before others have the lock
)

// fitLocked forgets what came of a tenant's oldest events if that takes more than its part.
func (j *Judge) fitLocked(k *docket, now time.Time) {
	most := j.cfg.Pools.AllState() / resultsPart
	if most == 0 {
		most = mostResults
	}
	for len(k.past) > 0 && k.results > most && now.Sub(k.past[0].judgeAt) > max(knownFor, j.cfg.Repeats) {
		j.forgetLocked(k.past[0])
	}
}

// forgetLocked forgets what came of an event whose deadline has come. It is among the oldest of its
// tenant.
func (j *Judge) forgetLocked(o *open) {
	o.docket.past = without(o.docket.past, o)
	o.docket.results -= o.bytes
	j.due.Set(o, time.Time{})
	delete(o.docket.all, o.part())
	j.cfg.Pools.State.Give(o.docket.tenant, o.bytes)
}

// sweepLocked forgets acknowledgements that no event can be waiting for, and tenants of which
// nothing is kept.
func (j *Judge) sweepLocked(now time.Time) {
	if now.Sub(j.swept) < markTime {
		return
	}
	j.swept = now
	for tenant, k := range j.dockets {
		was := k.marksBytes()
		k.rotate(now)
		j.cfg.Pools.State.Force(tenant, k.marksBytes()-was)
		if k.empty() {
			delete(j.dockets, tenant)
		}
	}
}

// Close forgets all, and gives its memory back, once Run has returned. What comes later is not
// kept.
func (j *Judge) Close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	for tenant, k := range j.dockets {
		bytes := k.marksBytes()
		for _, o := range k.all {
			bytes += o.bytes
		}
		j.cfg.Pools.State.Give(tenant, bytes)
	}
	j.dockets, j.due = map[string]*docket{}, due.Queue[*open]{}
}
