package journal

import (
	"context"
	"time"
)

const (
	// prepareTogether is how many appends are prepared for at a time.
	prepareTogether = 64
	// What may wait for that, of a key, in appends and in bytes.
	mostReady      = 4096
	mostReadyBytes = 8 << 20
	// echoTime is how long after its acknowledgement our own message may take to come
	// before it is read back.
	echoTime = 100 * time.Millisecond
)

// ready is what is handed over next. done, if any, is closed after it.
type ready struct {
	items []*Item
	done  chan struct{}
	life  uint64 // the feed's, when it was taken
}

// giveLocked hands something over, after what waits.
func (f *feed) giveLocked(r ready) {
	r.life = f.life
	if f.j.cfg.Prepare == nil && !f.preparing {
		if f.j.cfg.Behind == nil || !f.j.cfg.Behind(f.key, r.beside(), r.place()) {
			f.handleLocked(r)
			return
		}
	}
	f.ready = append(f.ready, r)
	f.readySize += r.size()
	if len(f.ready) > mostReady || f.readySize > mostReadyBytes {
		f.overrunLocked()
	}
	if !f.preparing {
		f.preparing = true
		f.j.done.Go(f.prepare)
	}
}

// size is how many bytes wait.
func (r ready) size() (n int) {
	for _, it := range r.items {
		n += len(it.Data)
	}
	return n
}

// await prepares items, or waits for what the first of them wait for.
func (f *feed) await(first ready, items []*Item) error {
	if f.j.cfg.Prepare != nil {
		f.j.cfg.Prepare(f.key, items)
		return nil
	}
	return f.j.cfg.Await(f.key, first.beside(), first.place())
}

// beside is what came beside its items, which were appended together.
func (r ready) beside() string {
	if len(r.items) == 0 || len(r.items[0].beside) == 0 {
		return ""
	}
	return r.items[0].beside[0]
}

// place is that of the first of its items that is kept; 0: none is.
func (r ready) place() uint64 {
	for _, it := range r.items {
		if it.Seq > 0 {
			return it.Seq
		}
	}
	return 0
}

// overrunLocked gives up what waits, since it could not be prepared, or arrives faster than it
// can be. The feed goes on after it, and Lost is told.
func (f *feed) overrunLocked() {
	for _, r := range f.ready {
		if r.done != nil {
			f.handled = append(f.handled, r.done)
		}
	}
	f.ready, f.readySize, f.overrun = nil, 0, true
	f.life++ // so that what is being prepared now is not handed over
	f.place = f.taken
}

// prepare prepares what waits, much of it together, and hands it over in its order.
func (f *feed) prepare() {
	f.mu.Lock()
	for (len(f.ready) > 0 || f.overrun) && !f.closed {
		if f.overrun {
			f.overrun = false
			f.j.cfg.Logger.Warn("events cannot be prepared for delivery, or not as fast as they arrive; streams are closed, and their clients resume", "key", f.key, "place", f.place)
			f.j.cfg.Lost(f.key, f.place)
			f.unlock()
			f.mu.Lock()
			continue
		}
		n := 1 // what waits for something beside the journal is in order with it
		if f.j.cfg.Prepare != nil {
			n = prepareTogether
		}
		batch := f.ready[:min(len(f.ready), n)]
		f.ready = f.ready[len(batch):]
		var items []*Item
		for _, r := range batch {
			items = append(items, r.items...)
			f.readySize -= r.size()
		}
		f.mu.Unlock()
		err := f.await(batch[0], items)
		f.mu.Lock()
		if err != nil && batch[0].life == f.life {
			f.overrunLocked()
		}
		for _, r := range batch {
			f.handleLocked(r)
		}
		f.unlock()
		f.mu.Lock()
	}
	f.preparing = false
	for _, r := range f.ready { // it is closed
		if r.done != nil {
			close(r.done)
		}
	}
	f.ready = nil
	f.unlock()
}

func (f *feed) handleLocked(r ready) {
	if r.life == f.life { // else its places are of another life
		f.j.cfg.Handle(f.key, r.items)
		f.fresh = true
		for _, it := range r.items {
			if !it.Pass {
				f.place = max(f.place, it.Seq)
			}
		}
	}
	if r.done != nil {
		f.handled = append(f.handled, r.done)
	}
}

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
