package access

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/sized"
)

// buckets are token buckets by key. One that is full again is as good as none. It is kept and
// counted until a new key comes and there are twice as many as the last time full ones went,
// 1,024 at least.
type buckets[K comparable] struct {
	// Static.
	perSecond float64              // 0: no limit
	own       func(K) K            // a key that is not a piece of a whole request
	count     func(key K, n int64) // what a bucket takes, 1 when it is made and -1 when it is not needed any more

	met atomic.Int64 // how often there was nothing to take

	mu sync.Mutex
	// Guarded by mu.
	kept  sized.Table[K, *bucket]
	clean int // looked through when it has grown to so many
}

// bucketBytes is the memory of one bucket, without its key's texts.
const bucketBytes = 32 + 2*57

// bucket has the tokens that are left at a time; a negative number is a debt.
type bucket struct {
	tokens float64
	at     time.Time
}

// burst is how much fits into a bucket: one second's worth.
func (b *buckets[K]) burst() float64 { return max(math.Floor(b.perSecond), 1) }

// take takes tokens of several keys. If one key has too few it takes none at all, and says
// how long to wait. More tokens than fit into a bucket are taken when it is full, and leave a
// debt.
func (b *buckets[K]) take(wants map[K]int) (wait time.Duration) {
	if b.perSecond <= 0 {
		return 0
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range wants {
		short := min(float64(n), b.burst()) - b.filledLocked(key, now).tokens
		wait = max(wait, time.Duration(min(short/b.perSecond, 1e9)*float64(time.Second)))
	}
	if wait > 0 {
		b.met.Add(1)
		return wait
	}
	for key, n := range wants {
		b.filledLocked(key, now).tokens -= float64(n)
	}
	return 0
}

// until is how long it takes until a key has a token. It takes none.
func (b *buckets[K]) until(key K) time.Duration {
	if b.perSecond <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	short := 0.0
	if b.kept.Get(key) != nil {
		short = 1 - b.filledLocked(key, time.Now()).tokens
	}
	if short <= 0 {
		return 0
	}
	b.met.Add(1)
	return max(time.Duration(min(short/b.perSecond, 1e9)*float64(time.Second)), 1)
}

// give gives tokens back that were taken.
func (b *buckets[K]) give(wants map[K]int) {
	if b.perSecond <= 0 {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range wants {
		bucket := b.filledLocked(key, now)
		bucket.tokens = min(bucket.tokens+float64(n), b.burst())
	}
}

// filledLocked is a key's bucket, filled up to now. It makes one if there is none.
func (b *buckets[K]) filledLocked(key K, now time.Time) *bucket {
	fill := func(x *bucket) *bucket {
		x.tokens = min(x.tokens+now.Sub(x.at).Seconds()*b.perSecond, b.burst())
		x.at = now
		return x
	}
	if x := b.kept.Get(key); x != nil {
		return fill(x)
	}
	if b.kept.Len() >= b.clean {
		for key, x := range b.kept.All() {
			if fill(x).tokens >= b.burst() { // as good as new
				b.kept.Delete(key)
				b.count(key, -1)
			}
		}
		b.clean = max(2*b.kept.Len(), 1024)
	}
	x := &bucket{b.burst(), now}
	key = b.own(key)
	b.kept.Put(key, x)
	b.count(key, 1)
	return x
}
