package history

import (
	"crypto/sha256"
	"sync"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/largest"
	"realtimehub/internal/quota"
	"realtimehub/internal/sized"
)

// idWindow remembers chosen ids for a while, each tenant's apart. When there are too many, the
// tenant with most loses its oldest. So a tenant with no more than a fair share loses none,
// however many another brings.
type idWindow struct {
	// Static.
	window time.Duration
	most   int                 // 0: no limit
	held   *quota.Pool[string] // counts the memory that they take, by tenant
	start  time.Time           // times of ids are since then

	mu sync.Mutex
	// Guarded by mu.
	tenants sized.Table[string, *tenantIDs]
	sizes   largest.Sizes[*tenantIDs] // how many ids each has
	due     due.Queue[*tenantIDs]     // tenants, by when the oldest is to be forgotten
	lost    int
}

// tenantIDs are the ids of one tenant.
type tenantIDs struct {
	due     due.Item
	name    string
	numbers sized.Table[idHash, uint64] // in order
	order   idOrder
	held    int64 // as it is counted
}

// Due implements [due.Owner].
func (t *tenantIDs) Due() *due.Item { return &t.due }

// idHash is what is remembered of an id instead of its up to 128 bytes. Two ids share a hash
// by chance among 2⁶⁴.
type idHash [16]byte

func hashID(id string) idHash {
	var room [128]byte // else a longer one would be copied to the heap
	sum := sha256.Sum256(append(room[:0], id...))
	return idHash(sum[:])
}

// remembered is the first event of an id.
type remembered struct {
	id   idHash
	seq  uint64        // its place; 0: it was not stored
	at   int64         // its timestamp, in Unix nanoseconds
	came time.Duration // the same time since the window's start, by the monotonic clock
}

// Memory that ids take, as measured.
const (
	idBytes       = 112 // one of many
	idTenantBytes = 640 // a tenant that has any, beside them
)

// idOrder is ids by number, in the order in which they came. It keeps them in blocks, so that
// it moves none of them when it grows.
type idOrder struct {
	blocks      queue[*[idBlock]remembered]
	first, next uint64 // the numbers of the oldest and of the one that comes next
}

const idBlock = 16

func (i *idOrder) len() int { return int(i.next - i.first) }

func (i *idOrder) at(number uint64) *remembered {
	return &i.blocks.at(int(number/idBlock - i.first/idBlock))[number%idBlock]
}

func (i *idOrder) push(r remembered) {
	if i.next%idBlock == 0 {
		i.blocks.push(new([idBlock]remembered))
	}
	i.next++
	*i.at(i.next - 1) = r
}

func (i *idOrder) pop() {
	if i.first++; i.first%idBlock == 0 {
		i.blocks.pop()
	}
}

// weight is the memory that a tenant's ids take.
func (t *tenantIDs) weight() int64 {
	const block = idBlock * 40
	return idTenantBytes + t.numbers.Bytes() + block*int64(t.order.blocks.len()) + 8*int64(t.order.blocks.places())
}

// mostIDs is how many ids are remembered: as many as were set, but no more than a pool has room
// for; 0 lifts either limit.
func mostIDs(set int, pool *quota.Pool[string]) int {
	fit := int(pool.All() / idBytes)
	if set == 0 || fit > 0 && fit < set {
		return fit
	}
	return set
}

func newIDWindow(limits Limits) idWindow {
	return idWindow{window: limits.Window, most: mostIDs(limits.IDs, limits.Held), held: limits.Held, start: time.Now()}
}

// claim remembers an id with the place and time of its event. If it is known within the window
// it returns the first event instead.
func (i *idWindow) claim(tenant, id string, seq uint64, at time.Time) (first remembered, known bool) {
	if i.window <= 0 {
		return remembered{}, false
	}
	hash, now := hashID(id), at.Sub(i.start)
	i.mu.Lock()
	defer i.mu.Unlock()
	for range 2 { // as only one comes, the old ones get fewer
		i.expireLocked(now)
	}
	t := i.tenants.Get(tenant)
	if t == nil {
		t = &tenantIDs{name: tenant}
	}
	if number, ok := t.numbers.Find(hash); ok {
		if first := *t.order.at(number); now-first.came < i.window {
			return first, true
		}
	}
	for range idBlock { // as many as free what a tenant's first takes
		victim, n, ok := i.sizes.Most()
		if !ok || !i.fullLocked() {
			break
		}
		if int64(t.order.len()) == n {
			victim = t // of several with most it is the one that wants more
		}
		i.forgetLocked(victim)
		i.lost++
	}
	t.numbers.Put(hash, t.order.next)
	t.order.push(remembered{hash, seq, at.UnixNano(), now})
	if t.order.len() == 1 {
		i.tenants.Put(tenant, t)
	}
	i.changedLocked(t)
	return remembered{}, false
}

// fullLocked says that there is no room for one more.
func (i *idWindow) fullLocked() bool {
	return i.most > 0 && int(i.sizes.Total()) >= i.most || i.held.All() > 0 && i.held.Total() > i.held.All()
}

// expireLocked forgets one id whose window is over, if there is one.
func (i *idWindow) expireLocked(now time.Duration) bool {
	for t, ok := i.due.Next(i.start.Add(now)); ok; t, ok = i.due.Next(i.start.Add(now)) {
		if t.order.at(t.order.first).came+i.window <= now {
			i.forgetLocked(t)
			return true
		}
		i.dueLocked(t) // its oldest was forgotten before
	}
	return false
}

// forgetLocked forgets a tenant's oldest.
func (i *idWindow) forgetLocked(t *tenantIDs) {
	oldest := t.order.first
	if id := t.order.at(oldest).id; t.numbers.Get(id) == oldest { // else it came again, after its window
		t.numbers.Delete(id)
	}
	t.order.pop()
	i.changedLocked(t)
}

// changedLocked notes how many ids a tenant has, after that has changed.
func (i *idWindow) changedLocked(t *tenantIDs) {
	n, weight := t.order.len(), t.weight()
	i.sizes.Set(t, int64(n))
	switch {
	case n == 0:
		weight = 0
		i.tenants.Delete(t.name)
		i.due.Set(t, time.Time{})
	case t.due.At().IsZero():
		i.dueLocked(t)
	}
	if weight != t.held {
		i.held.Force(t.name, weight-t.held)
		t.held = weight
	}
}

func (i *idWindow) dueLocked(t *tenantIDs) {
	i.due.Set(t, i.start.Add(t.order.at(t.order.first).came+i.window))
}

// expire forgets all ids whose window is over, a few at a time, so that no publisher waits for
// all of them.
func (i *idWindow) expire(now time.Time) {
	for more := true; more; {
		i.mu.Lock()
		for range 1000 {
			if more = i.expireLocked(now.Sub(i.start)); !more {
				break
			}
		}
		i.mu.Unlock()
	}
}

// count is how many ids are remembered, and how many were lost before their window was over.
func (i *idWindow) count() (ids, lost int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return int(i.sizes.Total()), i.lost
}
