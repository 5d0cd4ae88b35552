package presence

import (
	"slices"

	"realtimehub/internal/event"
)

// Person is what is known of one profile.
type Person struct {
	Profile      event.Profile `json:"profile"`
	Status       Status        `json:"status"`
	LastActiveAt *string       `json:"lastActiveAt"` // null: not known to have been seen
}

func (p *profile) person() Person {
	at := event.FormatTime(p.activeAt().time())
	return Person{Profile: p.Key(), Status: p.status.status(), LastActiveAt: &at}
}

// Of is what is known of profiles, in the order asked.
func (p *People) Of(tenant string, profiles []event.Profile) []Person {
	list := make([]Person, 0, len(profiles))
	for some := range slices.Chunk(profiles, piece) {
		p.mu.Lock()
		for _, ref := range some {
			one := Person{Profile: ref, Status: Offline}
			if who := p.findLocked(tenant, ref); who != nil {
				one = who.person()
			}
			list = append(list, one)
		}
		p.mu.Unlock()
	}
	return list
}

// All are a tenant's profiles of one status, or with status "" those that are
// not offline, sorted: who they are, since there may be very many. Before the list is made
// begin is told how long it may be, and may refuse it; once it is made, end is called.
func (p *People) All(tenant string, status Status, begin func(size int) (end func(), err error)) (list []event.Profile, err error) {
	offline := status == Offline
	end, err := begin(p.size(tenant, offline))
	if err != nil {
		return nil, err
	}
	defer end()
	p.each(tenant, offline, func(who *profile) {
		if who.status.status().Is(status) {
			list = append(list, who.Key())
		}
	})
	slices.SortFunc(list, event.CompareProfiles)
	return slices.Compact(list), nil
}

// size is how many of a tenant's profiles are offline, or are not.
func (p *People) size(tenant string, offline bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tenants.Get(tenant); t != nil {
		return len(*t.crowd(offline))
	}
	return 0
}

// Present says whether somebody was not offline at the last [People.Advance].
func (p *People) Present(tenant string, ref event.Profile) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.findLocked(tenant, ref)
	return who != nil && who.announced != isOffline
}

// Counts are how many profiles are not offline, all tenants together.
func (p *People) Counts() (online, away int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[isOnline], p.count[isAway]
}
