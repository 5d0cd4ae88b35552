package outbox

import (
	"context"
	"sync"
	"time"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/sized"
)

const (
	lookEvery  = 5 * time.Second        // whether the stream is still the one that is followed
	againAfter = 200 * time.Millisecond // what follows has failed
)

// follower knows of each tenant how far it has come and how much was taken, and tells of those
// that have something.
type follower struct {
	b    *Box                                      // static
	more func(tenant string, taken, newest uint64) // static
	done sync.WaitGroup

	// Owned by run.
	reader *reader
	life   string // of the stream that is read

	mu    sync.Mutex
	lines sized.Table[string, line] // guarded by mu
}

// line is a tenant of whom something is kept.
type line struct {
	head   head
	taken  uint64    // as the row says
	at     time.Time // the head was put
	since  time.Time // the oldest item that was not taken was put; zero: not known, or there is none
	oldest uint64    // the place of that, as it is kept; 0: not known
}

// untaken is how many items were not taken, about.
func (l *line) untaken() int {
	if l.head.seq == 0 {
		return 0
	}
	first := l.first()
	n := max(0, int64(l.head.newest+1)-int64(max(first, l.head.begin)))
	if first <= l.head.before {
		n += int64(l.head.before + 1 - first)
	}
	return int(n)
}

// first is the place of the first item that was not taken.
func (l *line) first() uint64 { return max(l.head.taken(l.taken)+1, l.oldest) }

// take notes up to which place items were taken.
func (l *line) take(place uint64) {
	if place > l.taken {
		l.taken, l.since, l.oldest = place, time.Time{}, 0
	}
}

// Follow implements outbox.Box.
func (b *Box) Follow(ctx context.Context, more func(tenant string, taken, newest uint64)) (stop func(), err error) {
	f := &follower{b: b, more: more}
	if err := f.begin(ctx); err != nil {
		return nil, err
	}
	b.setFollower(f)
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.done.Go(func() { f.run(running) })
	return func() {
		cancel()
		f.done.Wait()
		b.setFollower(nil)
	}, nil
}

func (b *Box) setFollower(f *follower) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.follower = f
}

// begin reads all heads and what was taken, and tells of those that have something.
func (f *follower) begin(ctx context.Context) error {
	state, err := f.b.info(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.lines = sized.Table[string, line]{} // what is said to be taken from now on stays
	f.mu.Unlock()
	r, err := f.b.newReader(ctx, false, f.b.all(kindHead, ""), f.b.all(kindTaken, ""))
	if err != nil {
		return err
	}
	if err := r.whole(ctx, func(e entry) error { f.note(e, false); return nil }); err != nil {
		r.close()
		return err
	}
	f.reader, f.life = r, state.Life()
	f.mu.Lock()
	defer f.mu.Unlock()
	for tenant, l := range f.lines.All() {
		f.tellLocked(tenant, &l)
	}
	return nil
}

// note notes a row, as it comes or as it was there.
func (f *follower) note(e entry, comes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lines.Get(e.tenant)
	switch e.kind {
	case kindHead:
		h, err := f.b.parseHead(e.tenant, e.msg.Data(), e.seq)
		if err != nil {
			return
		}
		if l.untaken() == 0 && comes {
			l.since, l.oldest = e.at, l.head.newest+1
		}
		l.head, l.at = h, e.at
	case kindTaken:
		l.take(stream.ParseSeq(string(e.msg.Data())))
	}
	f.lines.Put(e.tenant, l)
}

// took notes that a tenant's items were taken up to a place. Whoever has said so has it noted
// before its row comes, as a head that was put before that row may still have to be told of.
func (f *follower) took(tenant string, place uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.lines.Get(tenant)
	l.take(place)
	f.lines.Put(tenant, l)
}

// tellLocked tells of a tenant that has something.
func (f *follower) tellLocked(tenant string, l *line) {
	if l.untaken() > 0 {
		f.b.know(tenant, l.head.newest) // whoever reads now finds it
		f.more(tenant, l.head.taken(l.taken), l.head.newest)
	}
}

// run follows what comes, until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer func() { f.reader.close() }()
	for {
		err := f.listen(ctx)
		for err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(againAfter):
			}
			was := f.reader
			if err = f.begin(ctx); err == nil {
				was.close()
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// listen tells of what comes, until something is wrong or ctx ends.
func (f *follower) listen(ctx context.Context) error {
	looked := time.Now()
	for ctx.Err() == nil {
		err := f.reader.next(ctx, fetchRows, fetchTime, func(e entry) error {
			f.note(e, true)
			if e.kind == kindHead {
				f.mu.Lock()
				defer f.mu.Unlock()
				l := f.lines.Get(e.tenant)
				f.tellLocked(e.tenant, &l)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if time.Since(looked) < lookEvery {
			continue
		}
		looked = time.Now()
		seen := f.b.seen.Load()
		if state, err := f.b.info(ctx); err == nil && (state.Life() != f.life || state.Last < seen) {
			return stream.ErrStale
		}
	}
	return nil
}
