package webhook

import (
	"context"
	"math/rand/v2"
	"time"

	"realtimehub/internal/outbox"
)

// delays are how long after a failed attempt the next one comes, about; the last one is repeated
// for as long as the outbox keeps the items.
var delays = []time.Duration{
	0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, longestDelay,
}

const longestDelay = 24 * time.Hour

// delay is how long after so many failures the next attempt comes. It is up to a tenth more or
// less, so that tenants that fail together do not come together.
func delay(failures int) time.Duration {
	d := delays[min(failures, len(delays))-1]
	if d == 0 {
		return 0
	}
	return d - d/10 + rand.N(d/5)
}

// send sends a line's next batch, once, and has the line go on when it is due.
func (s *Sender) send(ctx context.Context, l *line, lane *lane) {
	step := s.try(ctx, l, s.newestOf(l))
	s.mu.Lock()
	defer s.mu.Unlock()
	lane.sending--
	l.sending = false
	l.slow = l.late
	s.slow.set(l.tenant, l.slow)
	defer s.wakeUp()
	if step.stop {
		s.stopLocked(l)
	}
	if step.all > 0 && !s.cfg.Endpoint.each() {
		s.until = time.Now().Add(step.all)
	}
	switch {
	case ctx.Err() != nil || s.stopped || l.stopped || s.ending && l.failures > 0:
	case step.after > 0 || l.failures > 0:
		s.dueLocked(l, step.after)
	case l.behind() == 0 && l.noted >= l.taken:
		delete(s.lines, l.tenant)
	case l.behind() >= batchItems:
		s.dueLocked(l, 0)
	default:
		s.dueLocked(l, gatherTime)
	}
}

// newestOf is the newest place of a line that is known.
func (s *Sender) newestOf(l *line) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.newest
}

// step is how a line goes on.
type step struct {
	after time.Duration // it is tried again; 0: at once, or when it has more
	all   time.Duration // the endpoint has asked to be left alone for
	stop  bool          // the endpoint wants nothing more
}

// try sends a line's next batch, of the items up to newest that the outbox has told of.
func (s *Sender) try(ctx context.Context, l *line, newest uint64) step {
	b, err := s.batch(ctx, l, newest)
	if err != nil {
		s.boxFails(ctx, err)
		return step{after: askAgain}
	}
	if len(b) == 0 {
		return step{}
	}
	if l.failures > 0 {
		s.repeated.Add(1)
	}
	began := time.Now()
	o := s.attempt(ctx, b)
	if ctx.Err() != nil && o.answer != AnswerTaken {
		return step{} // nobody knows what the answer would have been
	}
	s.answers.Add(o.answer, 1)
	l.late = o.answer != AnswerTaken || time.Since(began) >= slowAfter
	if o.answer == AnswerTaken {
		return s.taken(ctx, l, b)
	}
	l.failures++
	l.last = b.last()
	if o.gone() {
		return step{stop: true}
	}
	after := o.after
	if after == 0 {
		after = delay(l.failures)
	}
	s.failed(l, b, o, after)
	return step{after: after, all: o.after}
}

// batch is a line's next batch: that which has failed, if there is one, as far as the outbox still
// has it. It is empty if the outbox has nothing up to newest.
func (s *Sender) batch(ctx context.Context, l *line, newest uint64) (batch, error) {
	if err := s.note(ctx, l); err != nil {
		return nil, err
	}
	page, err := s.cfg.Box.Read(ctx, l.tenant, outbox.Query{After: l.taken, Limit: batchItems, Bytes: batchBytes})
	if err != nil {
		return nil, err
	}
	b := batch(page.Items)
	if len(b) == 0 {
		s.skip(l, max(newest, l.taken)+1)
		l.last, l.failures = 0, 0
		return nil, s.note(ctx, l)
	}
	s.skip(l, b[0].Seq)
	if same := l.last - l.taken; l.last > l.taken && same < uint64(len(b)) {
		b = b[:same]
	}
	return b, nil
}

// skip goes to the first item of a line that is still there.
func (s *Sender) skip(l *line, first uint64) {
	if lost := first - 1 - l.taken; first > l.taken && lost > 0 {
		s.lost.Add(int64(lost)) // of a box that was lost and began anew it is more than were ever there
		s.cfg.Logger.Error("items have left the outbox before the webhook took them: the service has to pull, and is told of a gap", "tenant", l.tenant, "items", lost, "before", first)
	}
	l.taken = first - 1
	l.noted = min(l.noted, l.taken)
}

// taken goes on after a batch that was taken.
func (s *Sender) taken(ctx context.Context, l *line, b batch) step {
	s.sent.Add(int64(len(b)))
	if l.failures > 1 {
		s.cfg.Logger.Info("the webhook is taken again", "tenant", l.tenant, "failures", l.failures)
	}
	l.taken, l.last, l.failures = b.last(), 0, 0
	if err := s.note(ctx, l); err != nil {
		s.boxFails(ctx, err)
		return step{after: askAgain}
	}
	return step{}
}

// note has the outbox know how far a line has come.
func (s *Sender) note(ctx context.Context, l *line) error {
	if l.noted >= l.taken {
		return nil
	}
	if err := s.cfg.Box.Taken(ctx, l.tenant, l.taken); err != nil {
		return err
	}
	l.noted = l.taken
	return nil
}

// boxFails logs that the outbox has not done what it was to, unless its answer came too late.
func (s *Sender) boxFails(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if times, due := s.failingBox.Due(time.Now()); due {
		s.cfg.Logger.Warn("the outbox does not answer the webhook", "err", err, "times", times)
	}
}

// failed logs that an attempt has failed; the first of a tenant is mostly mended by the second.
func (s *Sender) failed(l *line, b batch, o outcome, after time.Duration) {
	if l.failures < 2 {
		return
	}
	if times, due := s.failing.Due(time.Now()); due {
		s.cfg.Logger.Warn("the webhook was not taken", "tenant", l.tenant, "err", o.err, "failures", l.failures, "items", len(b), "again", after, "times", times)
	}
}

// stopLocked ends what is sent to an endpoint that has answered 410.
func (s *Sender) stopLocked(l *line) {
	s.gone.Add(1)
	const why = "the webhook's endpoint has answered 410 Gone: nothing more is sent to it until this hub starts again"
	if s.cfg.Endpoint.each() {
		l.stopped = true
		s.cfg.Logger.Error(why, "tenant", l.tenant)
		return
	}
	s.cfg.Logger.Error(why)
	s.stopped = true
	for _, l := range s.lines {
		s.laneOf(l).due.Set(l, time.Time{})
	}
	s.lines = map[string]*line{}
}
