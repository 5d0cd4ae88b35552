package cluster

import (
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// remotes is the connections that other hubs hold, of the tenants that this one
// holds. They are known by their session: they have no stream here.
type remotes struct {
	quotas *allowance.Pools // static

	mu sync.RWMutex
	// Guarded by mu.
	tenants map[string]*tenantRemotes
}

// remoteBytes is what is kept of each connection takes, beside names and with its places
// in tables.
const remoteBytes = 320 + 2*25 + 2*57 + 2*8

// tenantRemotes is one tenant's.
type tenantRemotes struct {
	byID     map[uuid.UUID]*delivery.Connection
	profiles map[event.Profile][]*delivery.Connection
}

// hold begins to know a tenant.
func (r *remotes) hold(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenants == nil {
		r.tenants = map[string]*tenantRemotes{}
	}
	if r.tenants[tenant] == nil {
		r.tenants[tenant] = &tenantRemotes{map[uuid.UUID]*delivery.Connection{}, map[event.Profile][]*delivery.Connection{}}
	}
}

func (r *remotes) release(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tenants[tenant]; t != nil {
		for _, c := range t.byID {
			r.quotas.State.Give(tenant, remoteBytes+c.Profile.Bytes())
		}
		delete(r.tenants, tenant)
	}
}

func (r *remotes) empty(tenant string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.tenants[tenant]
	return t == nil || len(t.byID) == 0
}

// change takes in what changed of a session, and returns the connection: whether it
// came, or is another's; nil where nothing changed.
func (r *remotes) change(tenant string, s SessionChange) (c *delivery.Connection, came bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenants[tenant]
	if t == nil {
		return nil, false
	}
	c = t.byID[s.ID]
	switch {
	case s.Gone && c == nil:
		return nil, false
	case s.Gone:
		delete(t.byID, s.ID)
		list := slices.DeleteFunc(t.profiles[c.Profile], func(other *delivery.Connection) bool { return other == c })
		if t.profiles[c.Profile] = list; len(list) == 0 {
			delete(t.profiles, c.Profile)
		}
		r.quotas.State.Give(tenant, remoteBytes+c.Profile.Bytes())
		return c, false
	case c == nil:
		c = delivery.NewRemote(s.ID, tenant, s.Profile, s.ConnectedAt, s.ActiveAt, nil)
		t.byID[s.ID] = c
		r.quotas.State.Force(tenant, remoteBytes+s.Profile.Bytes()) // it is there
		t.profiles[s.Profile] = append(t.profiles[s.Profile], c)
		came = true
	}
	c.SetSentAway(s.Drained)
	c.Active(s.ActiveAt)
	return c, came
}

// all are the ids of the connections that are known, by tenant.
func (r *remotes) all() map[string][]uuid.UUID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := map[string][]uuid.UUID{}
	for tenant, t := range r.tenants {
		all[tenant] = slices.Collect(maps.Keys(t.byID))
	}
	return all
}

// count is how many remote connections an event's target resolves to, of whose room these are
// the members. It looks at them, or at all profiles elsewhere, whichever are fewer.
func (r *remotes) count(e *event.Event, members room.Crowd) (n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.tenants[e.TenantID]
	if t == nil || len(t.byID) == 0 {
		return 0
	}
	excluded := event.ExcludedBy(&e.Target)
	add := func(list []*delivery.Connection) {
		if excluded.Nobody() {
			n += len(list)
			return
		}
		for _, c := range list {
			if !excluded.Has(c.Profile, c.ID) {
				n++
			}
		}
	}
	switch e.Target.Kind {
	case event.KindProfile, event.KindProfiles:
		for _, ref := range e.Target.Profiles {
			add(t.profiles[ref])
		}
	case event.KindConnection:
		if id, err := uuid.Parse(e.Target.ConnectionID); err == nil && t.byID[id] != nil {
			add([]*delivery.Connection{t.byID[id]})
		}
	case event.KindTenant:
		if excluded.Nobody() {
			return len(t.byID)
		}
		for _, list := range t.profiles {
			add(list)
		}
	default:
		if members.Len() < len(t.profiles) {
			for ref := range members.All() {
				add(t.profiles[ref])
			}
			return n
		}
		for ref, list := range t.profiles {
			if members.Has(ref) {
				add(list)
			}
		}
	}
	return n
}
