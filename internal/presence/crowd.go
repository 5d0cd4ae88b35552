package presence

import (
	"math"
	"slices"

	"realtimehub/internal/sized"
)

// piece is how many profiles are looked at under the lock, which is that of all tenants.
const piece = 1000

// crowd is profiles in no order. Each knows its place, which only gets smaller: whoever looks at
// the places from the last to the first, however much comes and goes meanwhile, meets everybody
// who stays.
type crowd []*profile

func (c *crowd) add(who *profile) {
	who.place = int32(len(*c))
	*c = append(*c, who)
}

func (c *crowd) remove(who *profile) {
	last := (*c)[len(*c)-1]
	(*c)[who.place], last.place = last, who.place
	sized.Pull((*[]*profile)(c), new(int64)) // a profile's bytes have it
}

// crowd is where a profile is by its status.
func (p *profile) crowd() *crowd { return p.tenant.crowd(p.status == isOffline) }

// crowd is those who are offline, or those who are not.
func (t *tenant) crowd(offline bool) *crowd {
	if offline {
		return &t.absent
	}
	return &t.present
}

// each calls do for a tenant's profiles that are offline, or for those that are not, with the
// lock held, which others get in between. Who comes or goes meanwhile may be met twice, or not.
func (p *People) each(tenant string, offline bool, do func(*profile)) {
	for end := math.MaxInt; end > 0; {
		end = p.some(tenant, offline, end, do)
	}
}

// some is each for up to a piece of those before a place. It returns the place of the first.
func (p *People) some(tenant string, offline bool, end int, do func(*profile)) (from int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tenants.Get(tenant)
	if t == nil {
		return 0
	}
	crowd := t.crowd(offline)
	end = min(end, len(*crowd))
	from = max(0, end-piece)
	for i := end - 1; i >= from; i-- { // do may take it out of the crowd
		do((*crowd)[i])
	}
	return from
}

// inPieces calls do for some profiles with the lock held, which others get in between.
func (p *People) inPieces(list []*profile, do func(*profile)) {
	for some := range slices.Chunk(list, piece) {
		p.mu.Lock()
		for _, who := range some {
			do(who)
		}
		p.mu.Unlock()
	}
}
