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

// idWindow remembers chosen ids for a while, each tenant's apart. When there are too many,
// who has most loses its own oldest: so nobody loses one who has no more than a fair
// share, however many somebody else brings.
type idWindow struct {
	// Static.
	window time.Duration
	most   int                 // 0: no limit
	held   *quota.Pool[string] // what they take is counted there, by tenant
	start  time.Time           // ids' times are since then

	mu sync.Mutex
	// Guarded by mu.
	tenants sized.Table[string, *tenantIDs]
	sizes   largest.Sizes[*tenantIDs] // how many ids each has
	due     due.Queue[*tenantIDs]     // tenants, by when the oldest is to be forgotten
	lost    int
}

// tenantIDs are one tenant's.
type tenantIDs struct {
	due     due.Item
	name    string
	numbers sized.Table[idHash, uint64] // in order
	order   idOrder
	held    int64 // as it is counted
}

func (t *tenantIDs) Due() *due.Item { return &t.due }

// idHash is what is remembered of an id, in place of up to 128 bytes: two ids of one
// hash would be found by luck among 2⁶⁴.
type idHash [16]byte

func hashID(id string) idHash {
	var room [128]byte // else a longer one would be copied to the heap
	sum := sha256.Sum256(append(room[:0], id...))
	return idHash(sum[:])
}

// remembered is the first event of an id.
type remembered struct {
	id   idHash
	seq  uint64        // its place, 0 when it was not stored
	at   int64         // its timestamp, in Unix nanoseconds
	came time.Duration // the same, by the clock that is never set
}

// Memory that ids take, as measured.
const (
	idBytes       = 112 // one of many
	idTenantBytes = 640 // a tenant that has any, beside them
)

// idOrder is ids by number, the first who came first, in blocks: so that to grow moves
// none of them.
type idOrder struct {
	blocks      queue[*[idBlock]remembered]
	first, next uint64 // numbers: of the oldest, and of the one that comes next
}

const idBlock = 16

func (o *idOrder) len() int { return int(o.next - o.first) }

func (o *idOrder) at(number uint64) *remembered {
	return &o.blocks.at(int(number/idBlock - o.first/idBlock))[number%idBlock]
}

func (o *idOrder) push(r remembered) {
	if o.next%idBlock == 0 {
		o.blocks.push(new([idBlock]remembered))
	}
	o.next++
	*o.at(o.next - 1) = r
}

func (o *idOrder) pop() {
	if o.first++; o.first%idBlock == 0 {
		o.blocks.pop()
	}
}

// weight is the memory that a tenant's ids take.
func (t *tenantIDs) weight() int64 {
	const block = idBlock * 40
	return idTenantBytes + t.numbers.Bytes() + block*int64(t.order.blocks.len()) + 8*int64(t.order.blocks.places())
}

// mostIDs is how many ids are remembered: as many as were set, of those that a pool has
// room for; 0 lifts either limit.
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

// claim remembers an id with its event's place and time, unless it is known from a first
// event within the window, which is returned then.
func (w *idWindow) claim(tenant, id string, seq uint64, at time.Time) (first remembered, known bool) {
	if w.window <= 0 {
		return remembered{}, false
	}
	hash, now := hashID(id), at.Sub(w.start)
	w.mu.Lock()
	defer w.mu.Unlock()
	for range 2 { // more than one comes: what has grown old gets less
		w.expireLocked(now)
	}
	t := w.tenants.Get(tenant)
	if t == nil {
		t = &tenantIDs{name: tenant}
	}
	if number, ok := t.numbers.Find(hash); ok {
		if first := *t.order.at(number); now-first.came < w.window {
			return first, true
		}
	}
	for range idBlock { // as many as free what a tenant's first takes
		victim, n, ok := w.sizes.Most()
		if !ok || !w.fullLocked() {
			break
		}
		if int64(t.order.len()) == n {
			victim = t // of several that have most, who wants more
		}
		w.forgetLocked(victim)
		w.lost++
	}
	t.numbers.Put(hash, t.order.next)
	t.order.push(remembered{hash, seq, at.UnixNano(), now})
	if t.order.len() == 1 {
		w.tenants.Put(tenant, t)
	}
	w.changedLocked(t)
	return remembered{}, false
}

// fullLocked says that there is no room for one more.
func (w *idWindow) fullLocked() bool {
	return w.most > 0 && int(w.sizes.Total()) >= w.most || w.held.All() > 0 && w.held.Total() > w.held.All()
}

// expireLocked forgets one id whose window is over, if there is one.
func (w *idWindow) expireLocked(now time.Duration) bool {
	for t, ok := w.due.Next(w.start.Add(now)); ok; t, ok = w.due.Next(w.start.Add(now)) {
		if t.order.at(t.order.first).came+w.window <= now {
			w.forgetLocked(t)
			return true
		}
		w.dueLocked(t) // its oldest was forgotten before
	}
	return false
}

// forgetLocked forgets a tenant's oldest.
func (w *idWindow) forgetLocked(t *tenantIDs) {
	oldest := t.order.first
	if id := t.order.at(oldest).id; t.numbers.Get(id) == oldest { // else it came again, after its window
		t.numbers.Delete(id)
	}
	t.order.pop()
	w.changedLocked(t)
}

// changedLocked notes what a tenant has, after that has changed.
func (w *idWindow) changedLocked(t *tenantIDs) {
	n, weight := t.order.len(), t.weight()
	w.sizes.Set(t, int64(n))
	switch {
	case n == 0:
		weight = 0
		w.tenants.Delete(t.name)
		w.due.Set(t, time.Time{})
	case t.due.At().IsZero():
		w.dueLocked(t)
	}
	if weight != t.held {
		w.held.Force(t.name, weight-t.held)
		t.held = weight
	}
}

func (w *idWindow) dueLocked(t *tenantIDs) {
	w.due.Set(t, w.start.Add(t.order.at(t.order.first).came+w.window))
}

// expire forgets all ids whose window is over, a few at a time: nobody who publishes
// waits for all of them.
func (w *idWindow) expire(now time.Time) {
	for more := true; more; {
		w.mu.Lock()
		for range 1000 {
			if more = w.expireLocked(now.Sub(w.start)); !more {
				break
			}
		}
		w.mu.Unlock()
	}
}

func (w *idWindow) count() (ids, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return int(w.sizes.Total()), w.lost
}
