package engine

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Drop is why an event was not written to a stream that it was for.
type Drop uint8

// The reasons there are.
const (
	DropSlow   Drop = iota // ephemeral, and the client past [Config].Buffer
	DropBudget             // ephemeral, and all clients together past [Config].Budget
	DropCut                // owed to a client that was cut as slow
	DropGone               // owed to a client that left
	DropClosed             // sent after the last words
	drops
)

func (d Drop) String() string {
	return [...]string{"slow", "budget", "cut", "gone", "closed"}[d]
}

// Ages of events when they are written: each bound is twice the one before, so that
// finding the bucket takes no search; past the last one, 13 s, is one bucket more.
const (
	firstAge = 50 * time.Microsecond
	ages     = 19
)

// AgeBound is the upper bound of a bucket of [Stats].Ages, but of the last.
func AgeBound(bucket int) time.Duration { return firstAge << bucket }

// Stats is what an engine has done since it was made.
type Stats struct {
	Owed      int64           // bytes, now
	Delivered int64           // events written whole
	Dropped   [drops]int64    // events
	Shed      int64           // how often a client was told that ephemeral events were shed
	Ages      [ages + 1]int64 // by write call, of the oldest event it ended: since it was published
	AgeSum    time.Duration
}

// Stats adds up what the writers have counted.
func (e *Engine) Stats() Stats {
	stats := Stats{Owed: max(0, e.owed.Load()), Shed: e.losses.shed.Load()}
	for i := range e.losses.dropped {
		stats.Dropped[i] = e.losses.dropped[i].Load()
	}
	for _, sh := range e.shards {
		t := &sh.tally
		stats.Delivered += t.delivered.Load()
		for i := range t.ages {
			stats.Ages[i] += t.ages[i].Load()
		}
		stats.AgeSum += time.Duration(t.ageSum.Load())
	}
	return stats
}

// tally is what a shard's streams count. It has its cache lines to itself: a writer
// must not wait for what another counts.
type tally struct {
	_         [64]byte
	delivered atomic.Int64
	ageSum    atomic.Int64
	ages      [ages + 1]atomic.Int64
	_         [64]byte
}

// losses are counted for all streams together: they are rare, and a stream loses
// events before it has a shard, too.
type losses struct {
	shed    atomic.Int64
	dropped [drops]atomic.Int64
}

// written is what one write call has ended.
type written struct {
	events int
	since  time.Time // when the oldest was published; zero: none that is timed
}

// count counts one write call: two or three additions however much it wrote. Who has
// seen the events counted has seen their ages, too.
func (t *tally) count(w written) {
	if w.events == 0 {
		return
	}
	if !w.since.IsZero() {
		age := max(time.Since(w.since), 0)
		t.ageSum.Add(int64(age))
		t.ages[ageBucket(age)].Add(1)
	}
	t.delivered.Add(int64(w.events))
}

func ageBucket(age time.Duration) int {
	return min(bits.Len64(uint64(max(age-1, 0)/firstAge)), ages)
}

func (l *losses) drop(why Drop, frames ...*Frame) {
	n := int64(0)
	for _, f := range frames {
		n += int64(f.events)
	}
	if n > 0 {
		l.dropped[why].Add(n)
	}
}

// tally is where the holder of s's claim counts what it wrote; on the plain path it
// is of a shard that does not write s.
func (s *Stream) tally() *tally { return &s.shard.tally }
