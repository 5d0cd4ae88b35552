package main

import (
	"sync"
	"time"
)

// seldom says when to log what may go on and on: once a second.
type seldom struct {
	mu sync.Mutex
	// Guarded by mu.
	told  time.Time
	times int // since
}

// due counts one more, and says whether to log it now, as one of so many.
func (s *seldom) due(now time.Time) (times int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times++
	if now.Sub(s.told) < time.Second {
		return 0, false
	}
	times, s.told, s.times = s.times, now, 0
	return times, true
}

// paced tells of what may happen often, by number: at once, then once a second.
type paced struct {
	say func() // static: what has happened since it was called

	mu sync.Mutex
	// Guarded by mu.
	resting, due bool
}

// tell says that something has happened.
func (p *paced) tell() {
	p.mu.Lock()
	p.due = p.resting
	first := !p.resting
	p.resting = true
	p.mu.Unlock()
	if first {
		p.say()
		time.AfterFunc(time.Second, p.rested)
	}
}

func (p *paced) rested() {
	p.mu.Lock()
	p.resting = false
	due := p.due
	p.mu.Unlock()
	if due {
		p.tell()
	}
}
