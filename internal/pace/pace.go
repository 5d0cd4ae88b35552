package pace

import (
	"sync"
	"time"
)

// Counter counts what may go on and on, and says when to log it: once a second. The zero
// value is ready.
type Counter struct {
	mu sync.Mutex
	// Guarded by mu.
	told  time.Time
	times int // since told
}

// Due counts one more. If it is due it is to be logged, for as many times as have come since
// the last that was.
func (c *Counter) Due(now time.Time) (times int, due bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times++
	if now.Sub(c.told) < time.Second {
		return 0, false
	}
	times, c.told, c.times = c.times, now, 0
	return times, true
}

// Reporter reports what may happen often: the first time at once, what follows together
// once a second. Its caller keeps the numbers.
type Reporter struct {
	Say func() // static; reports all that has happened since its last call

	mu sync.Mutex
	// Guarded by mu.
	resting bool // Say was called less than a second ago
	due     bool // something has happened since
}

// Tell says that something has happened.
func (r *Reporter) Tell() {
	r.mu.Lock()
	r.due = r.resting
	first := !r.resting
	r.resting = true
	r.mu.Unlock()
	if first {
		r.Say()
		time.AfterFunc(time.Second, r.rested)
	}
}

func (r *Reporter) rested() {
	r.mu.Lock()
	r.resting = false
	due := r.due
	r.mu.Unlock()
	if due {
		r.Tell()
	}
}
