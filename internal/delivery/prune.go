package delivery

import (
	"errors"
	"time"

	"realtimehub/internal/room"
)

// Forget drops a tenant that has no stream, and no membership but what all hubs of
// the cluster keep. Who waits for a tenant that is busy holds nothing that others need.
func (x *Tenants) Forget(name string) {
	t := x.Find(name)
	if t == nil {
		return
	}
	needed := x.needsLocked(t)
	t.Mu.Unlock()
	if needed {
		return
	}
	if _, taken := x.gates.take(name); !taken {
		return // somebody begins it, or forgets it already
	}
	defer x.gates.end(name) // when all is undone, so that nobody begins anew before
	if t = x.Find(name); t == nil {
		return
	}
	if x.needsLocked(t) {
		t.Mu.Unlock()
		return
	}
	t.forgotten = true
	x.quotas.State.Give(t.name, t.Charged)
	x.Mu.Lock()
	delete(x.ByName, name)
	x.Mu.Unlock()
	attached, shared := t.Attached, t.shared
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
	for _, name := range x.Names() {
		t := x.Find(name)
		if t == nil {
			continue
		}
		remembers := t.Rooms.Remembers() || len(t.resolved) > 0
		t.Mu.Unlock()
		var place uint64
		err := errors.ErrUnsupported
		if remembers {
			place, err = oldest(name)
		}
		if t := x.Find(name); t != nil {
			for in, r := range t.resolved {
				// As long as history has events for the room, who resumes must get them.
				if now.Sub(r.used) > room.ResolvedTTL && err == nil && r.at < place {
					t.unresolveLocked(in)
				}
			}
			if err == nil {
				t.Rooms.Prune(place)
			}
			t.settleLocked()
			t.Mu.Unlock()
		}
		x.Forget(name)
	}
}
