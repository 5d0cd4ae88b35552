package cluster

import (
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
)

// remotes is the connections that other hubs hold, of the tenants that this one
// holds. They are known by their session: they have no stream here.
type remotes struct {
	quotas *allowance.Pools // static

	Mu sync.RWMutex
	// Guarded by mu.
	Tenants map[string]*tenantRemotes
}

// AwayBytes is what is kept of each connection takes, beside names and with its places
// in tables.
const AwayBytes = 320 + 2*25 + 2*57 + 2*8

// tenantRemotes is one tenant's.
type tenantRemotes struct {
	ByID     map[uuid.UUID]*delivery.Connection
	Profiles map[event.Profile][]*delivery.Connection
}

// hold begins to know a tenant.
func (x *remotes) hold(tenant string) {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if x.Tenants == nil {
		x.Tenants = map[string]*tenantRemotes{}
	}
	if x.Tenants[tenant] == nil {
		x.Tenants[tenant] = &tenantRemotes{map[uuid.UUID]*delivery.Connection{}, map[event.Profile][]*delivery.Connection{}}
	}
}

func (x *remotes) release(tenant string) {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if t := x.Tenants[tenant]; t != nil {
		for _, c := range t.ByID {
			x.quotas.State.Give(tenant, AwayBytes+c.Profile.Bytes())
		}
		delete(x.Tenants, tenant)
	}
}

func (x *remotes) empty(tenant string) bool {
	x.Mu.RLock()
	defer x.Mu.RUnlock()
	t := x.Tenants[tenant]
	return t == nil || len(t.ByID) == 0
}

// change takes in what changed of a session, and returns the connection: whether it
// came, or is another's; nil where nothing changed.
func (x *remotes) change(tenant string, s SessionChange) (c *delivery.Connection, came bool) {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	t := x.Tenants[tenant]
	if t == nil {
		return nil, false
	}
	c = t.ByID[s.ID]
	switch {
	case s.Gone && c == nil:
		return nil, false
	case s.Gone:
		delete(t.ByID, s.ID)
		list := slices.DeleteFunc(t.Profiles[c.Profile], func(other *delivery.Connection) bool { return other == c })
		if t.Profiles[c.Profile] = list; len(list) == 0 {
			delete(t.Profiles, c.Profile)
		}
		x.quotas.State.Give(tenant, AwayBytes+c.Profile.Bytes())
		return c, false
	case c == nil:
		c = delivery.NewRemote(s.ID, tenant, s.Profile, s.ConnectedAt, s.ActiveAt, nil)
		t.ByID[s.ID] = c
		x.quotas.State.Force(tenant, AwayBytes+s.Profile.Bytes()) // it is there
		t.Profiles[s.Profile] = append(t.Profiles[s.Profile], c)
		came = true
	}
	c.SetSentAway(s.Drained)
	c.Active(s.ActiveAt)
	return c, came
}

// all are the ids of the connections that are known, by tenant.
func (x *remotes) all() map[string][]uuid.UUID {
	x.Mu.RLock()
	defer x.Mu.RUnlock()
	all := map[string][]uuid.UUID{}
	for tenant, t := range x.Tenants {
		all[tenant] = slices.Collect(maps.Keys(t.ByID))
	}
	return all
}

// Count is how many connections elsewhere an event's target resolves to; belongs
// says who is in its room.
func (x *remotes) Count(e *event.Event, belongs func(event.Profile) bool) (n int) {
	x.Mu.RLock()
	defer x.Mu.RUnlock()
	t := x.Tenants[e.TenantID]
	if t == nil || len(t.ByID) == 0 {
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
			add(t.Profiles[ref])
		}
	case event.KindConnection:
		if id, err := uuid.Parse(e.Target.ConnectionID); err == nil && t.ByID[id] != nil {
			add([]*delivery.Connection{t.ByID[id]})
		}
	case event.KindTenant:
		if excluded.Nobody() {
			return len(t.ByID)
		}
		for _, list := range t.Profiles {
			add(list)
		}
	default:
		for ref, list := range t.Profiles {
			if belongs(ref) {
				add(list)
			}
		}
	}
	return n
}
