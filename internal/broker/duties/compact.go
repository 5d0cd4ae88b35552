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
// twice as many as the duties.
func (r *reading) compact(ctx context.Context, from int64) error {
	if err := r.keepLost(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	passed, unread, bytes, begun := r.passed, r.unread, r.bytes, r.begun
	r.mu.Unlock()
	if passed.earlier.place == 0 || bytes == 0 {
		return nil
	}
	needing, size, ready := r.judge.KeptUpTo(passed.later.place)
	if len(needing) > 0 && (!ready || bytes < max(from, 2*size)) {
		return nil
	}
	if err := r.keepAnew(ctx, needing); err != nil {
		return err
	}
	r.mu.Lock()
	same := r.begun == begun
	r.mu.Unlock()
	if !same {
		return nil // it is read anew, and may be another stream
	}
	k, begin := r.keeper, passed.earlier.place
	if unread > 0 {
		begin = min(begin, unread) // another version may understand it, and judge next
	}
	if err := k.write(ctx, stream.NewMessage(k.prefix+beginSubject, []byte(stream.FormatSeq(begin)))); err != nil {
		return err
	}
	if err := k.stream.Purge(ctx, k.prefix+".ack.>", begin); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun == begun {
		r.bytes -= bytes
	}
	return nil
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
	lost, _, _ := r.judge.KeptUpTo(0)
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
	err := k.write(ctx, msg)
	if _, is := r.judge.Standing(d); !is {
		return nil // it is over meanwhile, and what came of it has taken its place
	}
	if standing.Kept == 0 && stream.WasSecond(err) {
		return nil // another hub has judged it
	}
	return err
}
