package delivery

import (
	"time"

	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// forget drops a tenant that has no stream, and no membership but what all hubs of
// the cluster keep. Who waits for a tenant that is busy holds nothing that others need.
func (t *Tenants) forget(name string) { t.forgetAt(name, time.Now()) }

func (t *Tenants) forgetAt(name string, now time.Time) {
	tenant := t.find(name)
	if tenant == nil {
		return
	}
	needed := t.needsLocked(tenant)
	tenant.mu.Unlock()
	if needed {
		return
	}
	if _, taken := t.gates.take(name); !taken {
		return // somebody begins it, or forgets it already
	}
	defer t.gates.end(name) // when all is undone, so that nobody begins anew before
	if tenant = t.find(name); tenant == nil {
		return
	}
	if t.needsLocked(tenant) {
		tenant.mu.Unlock()
		return
	}
	attached, shared, enrolled := tenant.attached, tenant.shared, tenant.enrolled
	if attached {
		tenant.usedAt = now // until now somebody was here
	}
	if t.staysLocked(tenant, now) {
		enrolled = false // it remains so
		tenant.attached, tenant.shared, tenant.head = false, false, history.Cursor{}
	} else {
		t.dropLocked(tenant)
	}
	tenant.flush() // a stream that was closed meanwhile may have been gathered before
	if attached {
		t.log.Detach(name)
	}
	if enrolled {
		t.rooms.Detach(name)
	}
	if shared {
		t.sharing.Unshare(name)
	}
}

// dropLocked has a tenant be no longer among the tenants.
func (t *Tenants) dropLocked(tenant *tenant) {
	tenant.forgotten = true
	t.quotas.State.Give(tenant.name, tenant.charged)
	tenant.unmarkLocked() // before there can be another of its name
	t.mu.Lock()
	delete(t.byName, tenant.name)
	t.mu.Unlock()
}

// restTime is how long the rooms of a tenant that nobody needs stay known, so that they need not
// be read again when somebody is back soon, or publishes now and then.
const restTime = 10 * time.Minute

// staysLocked says that a tenant's rooms stay known though nobody needs them now: they were used
// lately, and at least half of the memory for such is free.
func (t *Tenants) staysLocked(tenant *tenant, now time.Time) bool {
	all, taken := t.quotas.State.All(), t.quotas.State.Total()
	return tenant.enrolled && !tenant.rooms.Empty() && now.Sub(tenant.usedAt) < restTime &&
		(all == 0 || taken <= all/2)
}

// Prune forgets what nobody needs of who belonged where, and the tenants that nobody needs.
// oldest is the place that a tenant's history reaches back to; where it fails nothing of
// that tenant is forgotten.
func (t *Tenants) Prune(now time.Time, oldest func(name string) (uint64, error)) {
	for _, name := range t.ledger.marked() {
		t.prune(name, now, oldest)
		t.forgetAt(name, now)
	}
}

// prune is Prune of one tenant. Where it finds nothing to forget, nor later without a change, it
// has no need to look again.
func (t *Tenants) prune(name string, now time.Time, oldest func(name string) (uint64, error)) {
	tenant := t.find(name)
	if tenant == nil {
		return
	}
	remembers := tenant.remembersLocked()
	if !remembers && t.needsLocked(tenant) {
		tenant.unmarkLocked()
	}
	tenant.mu.Unlock()
	if !remembers {
		return
	}
	place, err := oldest(name)
	if tenant = t.find(name); tenant == nil {
		return
	}
	defer tenant.mu.Unlock()
	if err == nil {
		tenant.pruneLocked(now, place)
	}
	tenant.settleLocked()
}

// remembersLocked says that there is something that Prune may forget.
func (t *tenant) remembersLocked() bool { return t.rooms.Remembers() || len(t.resolved) > 0 }

// pruneLocked forgets what is of before a place. It unlocks the tenant now and then, so that
// nobody waits for all of it; the tenant may be forgotten meanwhile.
func (t *tenant) pruneLocked(now time.Time, place uint64) {
	rest := func() bool {
		t.mu.Unlock()
		t.mu.Lock()
		return !t.forgotten
	}
	for in, r := range t.resolved {
		// While the history has events for the room, its members must be known: somebody
		// who resumes is to get those events.
		if now.Sub(r.used) > room.ResolvedTTL && r.at < place {
			if !t.unresolveLocked(in, rest) {
				return
			}
		}
	}
	t.rooms.Prune(place, rest)
}
