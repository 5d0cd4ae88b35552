package journal

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
)

// sweepKeys is how many keys the broker looks up at once.
const sweepKeys = 1024

// know says that a place exists: what is missing up to it is read back.
func (f *feed) know(of *life, seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == of {
		of.saw(seq)
		f.knowLocked(seq)
	}
}

func (f *feed) knowLocked(seq uint64) {
	f.known = max(f.known, seq)
	if f.known > f.taken && !f.repairing && !f.closed {
		f.repairing = true
		f.j.done.Go(f.repair)
	}
}

// repair reads back what did not come.
func (f *feed) repair() {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 4*stream.AskTimeout)
		err := f.readBack(ctx)
		cancel()
		f.mu.Lock()
		if f.closed || err == nil && f.known <= f.taken {
			f.repairing = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		if err == nil {
			continue
		}
		f.j.cfg.Logger.Debug("could not read back messages that did not arrive", "key", f.key, "err", err)
		select {
		case <-time.After(wait):
		case <-f.j.stream.Done():
			return
		}
	}
}

func (f *feed) readBack(ctx context.Context) error {
	f.mu.Lock()
	from, known, life, of := f.taken, f.known, f.life, f.of
	f.mu.Unlock()
	err := f.j.read(ctx, of, f.key, from, known, func(list []Message) bool {
		f.mu.Lock()
		same := f.life == life && !f.closed
		if same {
			for _, m := range list {
				f.takeLocked(m)
			}
		}
		f.unlock()
		return same
	})
	if gone, ok := errors.AsType[*GoneError](err); ok {
		f.mu.Lock()
		if f.life == life { // once more, from what there is
			f.loseLocked(gone.Oldest, max(f.known, gone.Oldest))
		}
		f.mu.Unlock()
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.unlock()
	if f.life != life {
		return stream.ErrStale
	}
	f.taken = max(f.taken, known) // what is not there has gone, or is another key's
	f.takeHeldLocked()
	if len(f.part) == 0 && len(f.ready) == 0 && !f.preparing {
		f.place = max(f.place, f.taken)
	}
	return nil
}

// loseLocked goes on after a place that is not the next, and says so before anything
// that follows is handed over.
func (f *feed) loseLocked(place, known uint64) {
	f.part, f.early, f.held, f.heldSize = nil, nil, nil, 0
	f.taken, f.place, f.known = place, place, known
	f.life++
	f.j.cfg.Lost(f.key, place)
}

// sweep finds messages that did not arrive and were the last of their key, so that no later
// message reveals them. It also advances the places of all keys that have nothing new, before
// the stream's beginning moves past them. One answer of the broker covers many keys.
func (j *Journal) sweep(ctx context.Context, s stream.State) error {
	if s.Last <= j.swept.Load() {
		return nil
	}
	feeds := j.followed()
	if len(feeds) == 0 {
		j.swept.Store(s.Last)
		return nil
	}
	// A key without messages is not in the answer, and neither are keys of which a replica that
	// is behind has none. So the subject of the stream's last message is asked for as well: if
	// it is missing, the replica is behind.
	latest, err := j.stream.SubjectOf(ctx, s.Last)
	if err != nil {
		return err
	}
	whole := true
	for some := range slices.Chunk(feeds, sweepKeys-1) {
		upTo, err := j.sweepSome(ctx, some, latest, s.Last)
		if err != nil {
			return err
		}
		whole = whole && upTo >= s.Last
	}
	if whole {
		j.swept.Store(s.Last)
	}
	return nil
}

// sweepSome is sweep of some feeds; it returns the place up to which the replica that
// was asked has told what they lack.
func (j *Journal) sweepSome(ctx context.Context, feeds []*feed, latest string, last uint64) (upTo uint64, err error) {
	type waiting struct {
		feed *feed
		of   *life
		from uint64 // all up to here is known
		idle bool
	}
	rest := make(map[string]waiting, len(feeds)) // of whom the answer has no message, by subject
	names := make([]string, 0, len(feeds)+1)
	from := last
	for _, f := range feeds {
		w := waiting{feed: f}
		f.mu.Lock()
		w.of, w.from, w.idle = f.of, f.known, f.idleLocked()
		if w.idle {
			w.from = f.place
		}
		opening := f.sub == nil
		f.mu.Unlock()
		if opening {
			continue // it will ask itself
		}
		name := j.subject(f.key)
		rest[name] = w
		names = append(names, name)
		from = min(from, w.from)
	}
	if from == last {
		return last, nil
	}
	if _, asked := rest[latest]; !asked && latest != "" {
		names = append(names, latest)
	}
	end, err := j.stream.Direct(ctx, stream.Get{Seq: from + 1, MultiLast: names}, func(msg *nats.Msg) {
		name, seq := msg.Header.Get("Nats-Subject"), stream.ParseSeq(msg.Header.Get("Nats-Sequence"))
		if w, ok := rest[name]; ok && seq > w.from {
			w.feed.know(w.of, seq)
			delete(rest, name)
		}
	})
	if err != nil || stream.ParseSeq(end.Get("Nats-Num-Pending")) > 0 {
		return 0, err // it was too much: of some nothing was said
	}
	upTo = stream.ParseSeq(end.Get("Nats-UpTo-Sequence")) // 0: the replica has no message of these
	for _, w := range rest {
		if w.idle && w.from < upTo {
			w.feed.quiet(w.of, w.from, upTo)
		}
	}
	return upTo, nil
}

// idle says whether a feed waits for nothing, and where.
func (f *feed) idle() (place uint64, idle bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place, f.idleLocked()
}

func (f *feed) idleLocked() bool {
	return f.place == f.taken && f.known <= f.taken && !f.repairing && len(f.part)+len(f.ready) == 0 && !f.closed && !f.preparing
}

// quiet moves a feed's place on to where the leader knows of nothing for it.
func (f *feed) quiet(of *life, from, to uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == of && f.idleLocked() && f.place == from {
		f.place, f.taken, f.known = to, to, to
		f.j.cfg.Quiet(f.key, to)
	}
}
