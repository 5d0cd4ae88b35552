package overload

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"
)

// tally tells those who are turned away when to come back: so many a second, one after
// the other, so that each waits the longer the more they are. The zero value is ready.
type tally struct {
	mu   sync.Mutex
	next time.Time // guarded by mu: when the next one is to come
}

// longestAway bounds how long anybody is sent away for being one of many.
const longestAway = time.Minute

// after is how long the next one stays away.
func (x *tally) after(now time.Time, perSecond int) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.next.Before(now) {
		x.next = now
	}
	wait := min(x.next.Sub(now), longestAway)
	x.next = now.Add(wait + time.Second/time.Duration(perSecond))
	return wait
}

// How many are to come back a second: those of a tenant, and all.
const (
	backOfTenant = 50
	backOfAll    = 200
)

// Returns is the returns of a hub, and of each tenant, which shares with few: one whose
// clients storm is not to send those of all others away for longer.
type Returns struct {
	seed maphash.Seed // static
	all  tally
	of   [256]tally
}

func NewReturns() *Returns { return &Returns{seed: maphash.MakeSeed()} }

// After is how long a tenant's client stays away. full says that the hub has no room,
// for any tenant.
func (x *Returns) After(tenant string, full bool) time.Duration {
	now := time.Now()
	wait := x.of[maphash.String(x.seed, tenant)%uint64(len(x.of))].after(now, backOfTenant)
	if full {
		wait = max(wait, x.all.after(now, backOfAll))
	}
	return wait
}

// Jittered is d to twice that, since those who were sent away together must not come
// back together.
func Jittered(d time.Duration) time.Duration { return d + rand.N(d+1) }
