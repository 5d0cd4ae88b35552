package delivery

import (
	"errors"
	"time"

	"realtimehub/internal/room"
)

// forget drops a tenant that has no stream, and no membership but what all hubs of
// the cluster keep. Who waits for a tenant that is busy holds nothing that others need.
func (x *Tenants) forget(name string) {
	t := x.find(name)
	if t == nil {
		return
	}
	needed := x.needsLocked(t)
	t.mu.Unlock()
	if needed {
		return
	}
	if _, taken := x.gates.take(name); !taken {
		return // somebody begins it, or forgets it already
	}
	defer x.gates.end(name) // when all is undone, so that nobody begins anew before
	if t = x.find(name); t == nil {
		return
	}
	if x.needsLocked(t) {
		t.mu.Unlock()
		return
	}
	t.forgotten = true
	x.quotas.State.Give(t.name, t.charged)
	x.mu.Lock()
	delete(x.byName, name)
	x.mu.Unlock()
	attached, shared := t.attached, t.shared
	t.flush() // a stream that was closed meanwhile may have been gathered before
	if attached {
		x.log.Detach(name)
	}
	if shared {
		x.unshare(name)
	}
}

// Prune forgets what nobody needs of who belonged where, and the tenants that nobody needs.
// oldest is the place that a tenant's history reaches back to; where it fails nothing of
// that tenant is forgotten.
func (x *Tenants) Prune(now time.Time, oldest func(tenant string) (uint64, error)) {
	for _, name := range x.names() {
		t := x.find(name)
		if t == nil {
			continue
		}
		remembers := t.rooms.Remembers() || len(t.resolved) > 0
		t.mu.Unlock()
		var place uint64
		err := errors.ErrUnsupported
		if remembers {
			place, err = oldest(name)
		}
		if t := x.find(name); t != nil {
			for in, r := range t.resolved {
				// As long as history has events for the room, who resumes must get them.
				if now.Sub(r.used) > room.ResolvedTTL && err == nil && r.at < place {
					t.unresolveLocked(in)
				}
			}
			if err == nil {
				t.rooms.Prune(place)
			}
			t.settleLocked()
			t.mu.Unlock()
		}
		x.forget(name)
	}
}
