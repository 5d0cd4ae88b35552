package journal

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	sweepKeys = 1024 // that the broker looks up at once
	quietKeys = 64   // whose places are moved on in one sweep at the most
)

// know says that a place exists: what is missing up to it is read back.
func (f *feed) know(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.knowLocked(seq)
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
		ctx, cancel := context.WithTimeout(context.Background(), 4*askTimeout)
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
		f.j.cfg.Logger.Debug("not read back", "key", f.key, "err", err)
		select {
		case <-time.After(wait):
		case <-f.j.ended:
			return
		}
	}
}

func (f *feed) readBack(ctx context.Context) error {
	f.mu.Lock()
	from, known, life := f.taken, f.known, f.life
	f.mu.Unlock()
	if from < known {
		span, err := f.j.Span(ctx, f.key)
		if err == nil && from < span.Oldest {
			from, life = span.Oldest, f.lose(life, span.Oldest)
		}
		checked := false
		if err == nil {
			err = f.j.Read(ctx, f.key, from, known, func(list []Message) bool {
				if !checked { // something may have been trimmed between the two questions
					if span, err = f.j.Span(ctx, f.key); err != nil || from < span.Oldest {
						return false
					}
					checked = true
				}
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
		}
		if err == nil && from < span.Oldest && !checked {
			err = errStale // once more, from what there is
		}
		if err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.unlock()
	if f.life != life {
		return errStale
	}
	f.taken = max(f.taken, known) // what is not there has gone, or is another key's
	f.takeHeldLocked()
	if len(f.part) == 0 && len(f.ready) == 0 && !f.preparing {
		f.place = max(f.place, f.taken)
	}
	return nil
}

// lose goes on after a place that is not the next; it returns the life that begins,
// another than any where ours is over.
func (f *feed) lose(life, place uint64) uint64 {
	f.mu.Lock()
	if f.life != life {
		f.mu.Unlock()
		return 0
	}
	life = f.beginLocked(place, max(f.known, place))
	f.mu.Unlock()
	f.j.cfg.Lost(f.key, place)
	return life
}

// beginLocked begins anew after a place.
func (f *feed) beginLocked(place, known uint64) (life uint64) {
	f.part, f.early, f.held = nil, nil, nil
	f.taken, f.place, f.known = place, place, known
	f.life++
	return f.life
}

// sweep looks for last messages that did not come: they have none after them that
// would tell.
func (j *Journal) sweep(ctx context.Context, s state) error {
	j.mu.Lock()
	from := j.swept
	names := make([]string, 0, len(j.names))
	for name := range j.names {
		names = append(names, j.cfg.Prefix+".ev."+name)
	}
	j.mu.Unlock()
	if s.last <= from {
		return nil
	}
	upTo := s.last
	for some := range slices.Chunk(names, sweepKeys) {
		end, err := j.direct(ctx, get{Seq: from + 1, MultiLast: some}, func(msg *nats.Msg) {
			j.mu.Lock()
			f := j.names[strings.TrimPrefix(msg.Header.Get("Nats-Subject"), j.cfg.Prefix+".ev.")]
			j.mu.Unlock()
			if f != nil {
				f.know(parseSeq(msg.Header.Get("Nats-Sequence")))
			}
		})
		if err != nil {
			return err
		}
		if at := parseSeq(end.Get("Nats-UpTo-Sequence")); at > 0 && parseSeq(end.Get("Nats-Num-Pending")) == 0 {
			upTo = min(upTo, at) // the replica had no more
		} else {
			upTo = from // it had none of these keys, and may be behind; or too much of them
		}
	}
	j.mu.Lock()
	j.swept = max(j.swept, upTo)
	j.mu.Unlock()
	return nil
}

// moveQuiet moves the places of quiet keys on before the stream leaves them behind.
func (j *Journal) moveQuiet(ctx context.Context, s state) error {
	far := (s.last - min(s.first, s.last)) / 4
	moved := 0
	for _, f := range j.followed() {
		if moved == quietKeys {
			break
		}
		place, idle := f.idle()
		if !idle || s.last <= place+far {
			continue
		}
		moved++
		switch next, err := j.next(ctx, j.subject(f.key), place, s.last); {
		case err != nil:
			return err
		case next == 0: // the leader knows
			f.quiet(place, s.last)
		default:
			f.know(next)
		}
	}
	return nil
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
func (f *feed) quiet(from, to uint64) {
	f.mu.Lock()
	moved := f.idleLocked() && f.place == from
	if moved {
		f.place, f.taken, f.known = to, to, to
	}
	f.mu.Unlock()
	if moved {
		f.j.cfg.Quiet(f.key, to)
	}
}
