// Package quota bounds what many hold of one thing, such as bytes in memory, so that
// none of them can take it from the others.
//
// A holder may have as much as is left when it has it, or a part of that. So however much
// one wants, something stays free for who comes next: of one greedy holder a half, of
// two a third (Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory
// packet switches", 1998).
package quota

import (
	"sync"
	"sync/atomic"
)

// Pool is so much of one thing. The methods of a nil *Pool bound nothing.
type Pool[K comparable] struct {
	all  int64 // static
	part int64 // static

	refused atomic.Int64
	total   atomic.Int64 // changed under mu

	mu sync.Mutex
	// Guarded by mu.
	held map[K]int64 // no zeros
	old  map[K]int64 // from which holders move to held; nil: none do
	most int         // that both have had since held was made
}

// New makes a pool of all; 0 lifts the limit. Each holder may have 1/part of what is
// free then; where part is 0 one may have all.
func New[K comparable](all, part int64) *Pool[K] {
	return &Pool[K]{all: all, part: part, held: map[K]int64{}}
}

// Take takes n for a holder, or nothing: it says which.
func (p *Pool[K]) Take(holder K, n int64) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := p.all - p.total.Load() - n; p.all > 0 && n > 0 && (left < 0 || p.part > 0 && p.ofLocked(holder)+n > left/p.part) {
		p.refused.Add(1)
		return false
	}
	p.addLocked(holder, n)
	return true
}

// Force is Take for what is there already, whether it has room or not.
func (p *Pool[K]) Force(holder K, n int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addLocked(holder, n)
}

// Give gives back n that were taken.
func (p *Pool[K]) Give(holder K, n int64) { p.Force(holder, -n) }

func (p *Pool[K]) addLocked(holder K, n int64) {
	p.total.Add(n)
	now := p.ofLocked(holder) + n
	delete(p.old, holder)
	if now != 0 {
		p.held[holder] = now
	} else {
		delete(p.held, holder)
	}
	holders := len(p.held) + len(p.old)
	p.most = max(p.most, holders)
	if p.old == nil && holders < p.most/2 && p.most > 1024 { // a map never gets smaller
		p.held, p.old, p.most = map[K]int64{}, p.held, holders
	}
	p.moveLocked()
}

// moveTogether is how many holders move at each change, so that no call waits for all of them.
const moveTogether = 16

func (p *Pool[K]) moveLocked() {
	if p.old == nil {
		return
	}
	moved := 0
	for holder, n := range p.old {
		if moved == moveTogether {
			return
		}
		p.held[holder] = n
		delete(p.old, holder)
		moved++
	}
	p.old = nil
}

func (p *Pool[K]) ofLocked(holder K) int64 {
	if n, ok := p.held[holder]; ok || p.old == nil {
		return n
	}
	return p.old[holder]
}

// Of is what a holder has.
func (p *Pool[K]) Of(holder K) int64 {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ofLocked(holder)
}

// Total is what all have.
func (p *Pool[K]) Total() int64 {
	if p == nil {
		return 0
	}
	return p.total.Load()
}

// All is how much there is; 0: no limit.
func (p *Pool[K]) All() int64 {
	if p == nil {
		return 0
	}
	return p.all
}

// Refused is how often there was too little for somebody.
func (p *Pool[K]) Refused() int64 {
	if p == nil {
		return 0
	}
	return p.refused.Load()
}
