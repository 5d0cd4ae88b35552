package pace

import (
	"sync"
	"time"
)

// Counter says when to log what may go on and on: once a second.
type Counter struct {
	mu sync.Mutex
	// Guarded by mu.
	told  time.Time
	times int // since
}

// Due counts one more, and says whether to log it now, as one of so many.
func (s *Counter) Due(now time.Time) (times int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times++
	if now.Sub(s.told) < time.Second {
		return 0, false
	}
	times, s.told, s.times = s.times, now, 0
	return times, true
}

// Reporter tells of what may happen often, by number: at once, then once a second.
type Reporter struct {
	Say func() // static: what has happened since it was called

	mu sync.Mutex
	// Guarded by mu.
	resting, due bool
}

// Tell says that something has happened.
func (p *Reporter) Tell() {
	p.mu.Lock()
	p.due = p.resting
	first := !p.resting
	p.resting = true
	p.mu.Unlock()
	if first {
		p.Say()
		time.AfterFunc(time.Second, p.rested)
	}
}

func (p *Reporter) rested() {
	p.mu.Lock()
	p.resting = false
	due := p.due
	p.mu.Unlock()
	if due {
		p.Tell()
	}
}
