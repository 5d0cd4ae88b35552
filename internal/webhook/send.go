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
	began, newest := time.Now(), s.newestOf(l)
	step := s.try(ctx, l, newest)
	s.mu.Lock()
	defer s.mu.Unlock()
	lane.sending--
	l.sending = false
	l.slow = l.failures > 0 || time.Since(began) >= slowAfter
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
	case l.behind() == 0:
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
	b, err := s.batch(ctx, l)
	if err != nil {
		if ctx.Err() == nil {
			s.boxFails(err)
		}
		return step{after: askAgain}
	}
	if len(b) == 0 { // it has nothing more of those
		l.taken, l.last, l.failures = newest, 0, 0
		return step{}
	}
	if l.failures > 0 {
		s.repeated.Add(1)
	}
	o := s.attempt(ctx, b)
	if ctx.Err() != nil && o.answer != AnswerTaken {
		return step{} // nobody knows what the answer would have been
	}
	s.answers.Add(o.answer, 1)
	if o.answer == AnswerTaken {
		s.taken(ctx, l, b)
		return step{}
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
// has it.
func (s *Sender) batch(ctx context.Context, l *line) (batch, error) {
	page, err := s.cfg.Box.Read(ctx, l.tenant, outbox.Query{After: l.taken, Limit: batchItems, Bytes: batchBytes})
	if err != nil || len(page.Items) == 0 {
		return nil, err
	}
	b := batch(page.Items)
	if lost := b[0].Seq - l.taken - 1; b[0].Seq > l.taken && lost > 0 {
		s.lost.Add(int64(lost))
		s.cfg.Logger.Error("items have left the outbox before the webhook took them: the service has to pull, and is told of a gap", "tenant", l.tenant, "items", lost, "before", b[0].Seq)
	}
	l.taken = b[0].Seq - 1
	if same := l.last - l.taken; l.last > l.taken && same < uint64(len(b)) {
		b = b[:same]
	}
	return b, nil
}

// taken notes that a batch was taken.
func (s *Sender) taken(ctx context.Context, l *line, b batch) {
	s.sent.Add(int64(len(b)))
	if err := s.cfg.Box.Taken(ctx, l.tenant, b.last()); err != nil && ctx.Err() == nil {
		s.boxFails(err) // they come again if another hub sends
	}
	if l.failures > 1 {
		s.cfg.Logger.Info("the webhook is taken again", "tenant", l.tenant, "failures", l.failures)
	}
	l.taken, l.last, l.failures = b.last(), 0, 0
}

// boxFails logs that the outbox has not done what it was to.
func (s *Sender) boxFails(err error) {
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
