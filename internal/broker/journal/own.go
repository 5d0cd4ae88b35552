package journal

import (
	"context"
	"time"
)

// What this process appends reaches its own feeds as it was given to Append, before
// that returns; others decode what the broker tells.

// parcel is what one Append has under way, by key in the order given. A feed that
// takes a key's items has them to itself until done.
type parcel struct {
	done map[string]chan struct{} // closed when Handle has had them
	// Guarded by Journal.mu once it can be found.
	items map[string][]*Item // none: nobody is to take them any more
	taken map[string]bool
}

// takeOwn takes a key's part of an append that is under way.
func (j *Journal) takeOwn(key string, o origin) ([]*Item, chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.own[o.number]
	if p == nil || p.items[key] == nil {
		return nil, nil
	}
	p.taken[key] = true
	return p.items[key], p.done[key]
}

// isTaken says whether a feed has a key's items, and else sees to it that none will.
func (j *Journal) isTaken(key string, p *parcel) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !p.taken[key] {
		delete(p.items, key)
	}
	return p.taken[key]
}

// passOwn hands our own items that are not kept to our own feed.
func (j *Journal) passOwn(key string, p *parcel) {
	f := j.feed(key)
	if f == nil {
		return
	}
	f.mu.Lock()
	if !f.closed {
		f.giveLocked(ready{items: p.items[key], done: p.done[key]})
		j.mu.Lock()
		p.taken[key] = true // Append waits for it
		j.mu.Unlock()
	}
	f.unlock()
}

// awaitOwn waits until our own items have reached our own feed, if the key is
// followed, and says whether they have.
func (j *Journal) awaitOwn(ctx context.Context, l *life, key string, p *parcel, seqs []uint64) bool {
	f := j.feed(key)
	if f == nil {
		return j.isTaken(key, p)
	}
	if len(seqs) == 0 { // nothing of it comes back
		j.passOwn(key, p)
		return true
	}
	last := seqs[len(seqs)-1]
	timer := time.NewTimer(echoTime)
	defer timer.Stop()
	for {
		f.mu.Lock()
		past := f.taken >= last || f.closed // if it is not taken from us, nobody will
		f.mu.Unlock()
		if past {
			return j.isTaken(key, p)
		}
		select {
		case <-p.done[key]:
			return true
		case <-timer.C:
			f.know(l, last)
			timer.Reset(echoTime)
		case <-ctx.Done(): // it is kept, and will be read back
			return j.isTaken(key, p)
		case <-j.stream.Done():
			return true
		}
	}
}

// release takes a parcel back; what a feed has taken is handled first.
func (j *Journal) release(number uint64, p *parcel) {
	j.mu.Lock()
	delete(j.own, number)
	var wait []chan struct{}
	for key := range p.taken {
		wait = append(wait, p.done[key])
	}
	j.mu.Unlock()
	for _, done := range wait {
		select {
		case <-done:
		case <-j.stream.Done():
		}
	}
}
