package webhook

import "container/list"

// mostSlow is how many tenants are remembered as slow.
const mostSlow = 10_000

// slowTenants are those whose last attempt was slow or failed, whether they have more to be sent
// or not. Past mostSlow the one that was slow the longest ago is forgotten.
type slowTenants struct {
	places map[string]*list.Element // in order
	order  list.List                // of tenants; the last one was slow just now
}

func newSlowTenants() slowTenants { return slowTenants{places: map[string]*list.Element{}} }

// has says whether a tenant was slow when it was last sent to; false of one that is not remembered.
func (s *slowTenants) has(tenant string) bool { return s.places[tenant] != nil }

// set remembers how a tenant was when it was sent to just now.
func (s *slowTenants) set(tenant string, slow bool) {
	s.forget(tenant)
	if !slow {
		return
	}
	s.places[tenant] = s.order.PushBack(tenant)
	if len(s.places) > mostSlow {
		s.forget(s.order.Front().Value.(string))
	}
}

func (s *slowTenants) forget(tenant string) {
	if place := s.places[tenant]; place != nil {
		s.order.Remove(place)
		delete(s.places, tenant)
	}
}
