package duties

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
)

// Bounds of what is kept that only the past is in: who judges next reads all of it.
const (
	compactEvery = time.Minute
	compactFrom  = 16 << 20 // bytes, while deadlines are open that some of it may be of
)

// milestone is a place of the stream, and when it was kept.
type milestone struct {
	place uint64
	at    time.Time
}

// milestones are two places that are duty.MostEarly apart or more. What was acknowledged before
// the earlier of them is of no duty that is kept behind the later.
type milestones struct{ earlier, later milestone }

func (m *milestones) pass(place uint64, kept time.Time) {
	if kept.Sub(m.later.at) >= duty.MostEarly {
		m.earlier, m.later = m.later, milestone{place, kept}
	}
}

// keepCompact has who judges next read little, until ctx ends.
func (r *reading) keepCompact(ctx context.Context) {
	ticker := time.NewTicker(compactEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := r.compact(ctx, compactFrom); err != nil && ctx.Err() == nil {
			r.keeper.cfg.Logger.Warn("what is kept of deadlines could not be made shorter, which is tried again", "err", err)
		}
	}
}

// compact has reading begin later: what was acknowledged before is forgotten. What of it is of
// duties before their deadline is kept with these first, once what was read is some bytes, and
// twice as many as the duties. Only when it is called again, and the disk has these, what was
// before is removed: a power cut may take what was kept last, and not what was kept for hours.
func (r *reading) compact(ctx context.Context, from int64) error {
	if err := r.keepLost(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	begun, prepared, bytes := r.begun, r.prepared, r.bytes
	r.mu.Unlock()
	var next uint64
	var err error
	if prepared > 0 {
		err = r.beginAt(ctx, prepared)
	} else {
		next, err = r.prepare(ctx, bytes, from)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || r.begun != begun { // it is read anew, and may be another stream
		return err
	}
	if r.prepared = next; next > 0 {
		r.bytes -= bytes
	}
	return nil
}

// prepare keeps duties so that reading may begin later, and says where; 0: it is not worth it. So
// many bytes were read.
func (r *reading) prepare(ctx context.Context, bytes, from int64) (begin uint64, err error) {
	r.mu.Lock()
	passed, unread := r.passed, r.unread
	r.mu.Unlock()
	if passed.earlier.place == 0 || bytes == 0 {
		return 0, nil
	}
	needing, size, due, ready := r.judge.KeptUpTo(passed.later.place)
	if len(needing) > 0 && (!ready || bytes < max(from, 2*size)) {
		return 0, nil
	}
	begin = passed.earlier.place
	for _, first := range []uint64{due, unread} { // another version may understand it, and judge next
		if first > 0 {
			begin = min(begin, first)
		}
	}
	return begin, r.keepAnew(ctx, needing)
}

// beginAt has who judges next read from a place on, and removes what was acknowledged before.
func (r *reading) beginAt(ctx context.Context, place uint64) error {
	k := r.keeper
	if err := k.write(ctx, stream.NewMessage(k.prefix+beginSubject, []byte(stream.FormatSeq(place)))); err != nil {
		return err
	}
	_, err := k.stream.Purge(ctx, k.prefix+".ack.>", place)
	return err
}

// beginSubject has the place from which on a judge is to read, as a decimal number.
const beginSubject = ".begin"

// begin is the place from which on the stream is to be read; 1: all of it. It is before where it was
// said, or it is of a stream of before that was deleted.
func (k *Keeper) begin(ctx context.Context) (uint64, error) {
	kept, err := k.stream.Leader(ctx, stream.Get{Last: k.prefix + beginSubject})
	begin := stream.ParseSeq(string(kept.Data))
	if begin > kept.Seq {
		begin = 0
	}
	return max(1, begin), err
}

// keepLost keeps duties that the stream may have no more.
func (r *reading) keepLost(ctx context.Context) error {
	lost, _, _, _ := r.judge.KeptUpTo(0)
	return r.keepAnew(ctx, lost)
}

// keepAnew keeps duties with what has come of them, each in the place of what was kept of it.
func (r *reading) keepAnew(ctx context.Context, list []*duty.Duty) error {
	var keeping sync.WaitGroup
	errs := make([]error, judgedAtOnce)
	for i := range errs {
		keeping.Go(func() {
			for n := i; n < len(list) && errs[i] == nil; n += len(errs) {
				errs[i] = r.keepOneAnew(ctx, list[n])
			}
		})
	}
	keeping.Wait()
	return errors.Join(errs...)
}

func (r *reading) keepOneAnew(ctx context.Context, d *duty.Duty) error {
	k := r.keeper
	standing, is := r.judge.Standing(d)
	if !is {
		return nil
	}
	subject := k.subjectOf(d.Event.TenantID, d.At, d.Part)
	msg := stream.NewMessage(subject, encode(&standing.Duty, leftOf(standing.Due), standing.Came),
		jetstream.ExpectedLastSubjSeqHeader, stream.FormatSeq(standing.Kept))
	write := k.write
	if standing.Kept == 0 {
		write = k.writeFirst // or another hub has judged it
	}
	err := write(ctx, msg)
	if _, is := r.judge.Standing(d); !is {
		return nil // it is over meanwhile, and what came of it has taken its place
	}
	return err
}
