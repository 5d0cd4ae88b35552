package delivery

import (
	"context"
	"errors"
	"sync"
	"time"

	"realtimehub/internal/due"
	"realtimehub/internal/engine"
	"realtimehub/internal/fair"
)

// leaveLocked takes c out of its tenant, whose lock is held, and out of the hub.
func (s *Streams) leaveLocked(t *tenant, c *Connection, reason CloseReason) {
	t.hearLocked(c)
	s.count.closes.Add(reason, 1)
	s.endedLocked(t, c)
	t.removeLocked(c)
	s.expiry.set(c, time.Time{})
	s.open.drop(c)
}

// closeLocked ends c's stream, with the place that its client may go on from.
func (s *Streams) closeLocked(t *tenant, c *Connection, reason CloseReason) {
	s.closeWithLocked(t, c, c.encoder.closing(reason, 0, t.knownLocked(c)))
}

// closeWithLocked is closeLocked with the last words.
func (s *Streams) closeWithLocked(t *tenant, c *Connection, last *engine.Frame) {
	t.hearLocked(c)
	c.Stream.Close(last)
	if c.joined {
		c.place = t.sentLocked(c) // its client may acknowledge that
	}
}

// expiring tells a connection's client that its token is about to end.
func (s *Streams) expiring(l *lifetime) {
	t := s.tenants.find(l.conn.Tenant)
	if t == nil {
		return
	}
	var d engine.Batch
	if s.expiry.stands(l) && !l.conn.restsLocked() {
		d.Send(l.conn.Stream, l.conn.encoder.expiring(l.expires))
	}
	t.mu.Unlock()
	d.Flush()
}

// expired ends a connection whose time is over.
func (s *Streams) expired(l *lifetime) {
	s.removeIf(l.conn, CloseExpired, func() bool { return s.expiry.stands(l) })
}

// owner is what the engine knows of a connection.
type owner struct {
	streams *Streams
	conn    *Connection
	turn    uint32 // of the stream, among those of a connection that lingers
}

// Gone implements engine.Owner. Whoever writes this stream writes other tenants' as well: it
// does not wait for a tenant that is busy.
func (o *owner) Gone(why error) {
	t, busy := o.streams.tenants.tryFind(o.conn.Tenant)
	if busy {
		go o.streams.ended(o, why)
		return
	}
	if t != nil {
		t.mu.Unlock()
	}
	o.streams.ended(o, why)
}

// Group implements engine.Owner: tenants do not pay for each other.
func (o *owner) Group() string { return o.conn.Tenant }

// Words implements engine.Owner.
func (o *owner) Words() *engine.Words { return o.conn.encoder.own }

// Beat implements engine.Owner: the place is told instead of the beat where it has moved, and
// the tenant is not busy.
func (o *owner) Beat(s *engine.Stream, d *engine.Batch, beat *engine.Frame) {
	t, busy := o.streams.tenants.tryFind(o.conn.Tenant)
	switch {
	case busy && beat != nil:
		d.Send(s, beat)
	case t != nil:
		t.beatLocked(d, o.conn, beat)
		t.mu.Unlock()
	}
}

// ended is the stream's own word that it is over.
func (s *Streams) ended(o *owner, why error) {
	reason := CloseClient
	switch {
	case why == nil:
		reason = CloseDrain // who ended it for another reason has removed it
	case errors.Is(why, engine.ErrVanished):
		reason = CloseVanished
	case errors.Is(why, engine.ErrSlow):
		reason = CloseSlow
	case errors.Is(why, engine.ErrNoisy):
		reason = CloseNoisy
	}
	if reason == CloseSlow || reason == CloseNoisy {
		s.tellOfCut(reason)
	}
	if !s.rests(o.conn, o.turn, reason) {
		s.removeIf(o.conn, reason, nil)
	}
}

// tellOfCut has the log tell of a stream that was cut; removeIf logs each at debug.
func (s *Streams) tellOfCut(reason CloseReason) {
	s.cuts.Add(reason, 1)
	s.cutting.Tell()
}

// removeIf takes c out of the hub and ends its stream, if so returns true. so is called with
// the tenant locked; it is nil if the stream has ended already. Only the first call has an
// effect, and it alone returns true.
func (s *Streams) removeIf(c *Connection, reason CloseReason, so func() bool) (first bool) {
	return s.remove(c, reason, so, func(t *tenant) { s.closeLocked(t, c, reason) })
}

// remove is removeIf that ends the stream in its own way.
func (s *Streams) remove(c *Connection, reason CloseReason, so func() bool, end func(t *tenant)) (first bool) {
	t := s.tenants.find(c.Tenant)
	if t == nil {
		return false
	}
	// A connection that is admitted but not in its tenant yet cannot be removed. From here on
	// c.sentAway no longer changes.
	first = c.joined && !c.removed && (so == nil || so())
	if first {
		if c.restsLocked() && reason == CloseExpired {
			reason = CloseClient // it did not ask again
		}
		if c.sentAway && reason == CloseClient {
			reason = CloseDrain // it went because it was sent away
		}
		s.leaveLocked(t, c, reason)
		if so != nil {
			end(t)
		}
	}
	last := len(t.conns) == 0
	t.mu.Unlock()
	if first {
		s.logger.Debug("stream ended", "reason", string(reason), "tenant", c.Tenant, "connection", c.ID)
		s.closed(c, reason)
	}
	switch {
	case !first || !last: // who was first sees to it
	case s.tenants.waits():
		go s.tenants.forget(c.Tenant) // it may wait for the broker, and who ends streams must not
	default:
		s.tenants.forget(c.Tenant)
	}
	return first
}

// Leave ends a connection for what its client has sent: it takes its leave (CloseClient), or it
// cannot be listened to any longer, which hub.closing tells it. end is what the door says last. A
// stream that has its last words already ends for the reason that they give.
func (s *Streams) Leave(c *Connection, reason CloseReason, end []byte) {
	first := s.remove(c, reason, func() bool { return !c.Stream.Closed() }, func(t *tenant) {
		last := end
		if reason != CloseClient {
			last = append(c.encoder.appendClosing(nil, reason, 0, t.knownLocked(c), nil), end...)
		}
		s.closeWithLocked(t, c, engine.NewFrame(last, false))
	})
	if first && reason == CloseProtocol {
		s.tellOfCut(reason)
	}
}

// Kick closes a connection, and says whether it was there still: it is gone from the
// hub when Kick returns.
func (s *Streams) Kick(c *Connection, reason CloseReason) bool {
	return s.removeIf(c, reason, func() bool { // before the stream's own end does, for no reason
		s.unheardLocked(c, reason)
		return true
	})
}

// Drained is closed by Refuse, and when Drain is over: requests that have no end of
// their own end.
func (s *Streams) Drained() <-chan struct{} { return s.drained }

// Refuse has no new stream taken, and requests that have no end of their own end.
func (s *Streams) Refuse() {
	s.open.shut()
	s.endOnce.Do(func() {
		s.expiry.alarm.Stop()
		close(s.drained)
	})
}

// Drain refuses new streams and ends those that are open, spread over a time so
// that the next hub gets its clients one after the other; at once when ctx ends.
// Who is sent away is not announced as offline: they will be back.
func (s *Streams) Drain(ctx context.Context, over time.Duration) {
	defer s.Refuse()
	open := s.open.shut()
	start := time.Now()
	for i, c := range open {
		due := over * time.Duration(i) / time.Duration(len(open))
		if wait := due - time.Since(start); wait > drainStep {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				over = 0
			}
		}
		if t := s.tenants.find(c.Tenant); t != nil {
			if !c.removed {
				c.sentAway = true
				s.closeLocked(t, c, CloseDrain)
			}
			rests := c.restsLocked()
			t.mu.Unlock()
			if rests { // no stream ends it
				s.removeIf(c, CloseDrain, nil)
			}
		}
	}
}

// drainStep is how exactly Drain keeps its times.
const drainStep = 10 * time.Millisecond

// unacked ends a connection that has owed an acknowledgement for too long, and says when to
// look again if it has not.
func (s *Streams) unacked(a *acks) {
	c := a.conn
	s.removeIf(c, CloseUnacked, func() bool {
		now := time.Now()
		a.forget(now)
		since, any := a.owedSince(now)
		if any && now.Sub(since) >= s.timeouts.after {
			return true
		}
		if any {
			s.timeouts.await(a, since)
		}
		return false
	})
}

// timeouts finds connections that have owed an acknowledgement for too long.
type timeouts struct {
	after time.Duration // 0: none is ended
	alarm *fair.Alarm[*acks]
}

func newTimeouts(after time.Duration, end func(*acks)) *timeouts {
	return &timeouts{after, fair.NewAlarm(func(a *acks) string { return a.conn.Tenant }, end)}
}

// await looks at a connection once what it owes since a time could be owed for too long. The
// tenant is locked.
func (t *timeouts) await(a *acks, since time.Time) {
	if t.after > 0 {
		t.alarm.SetNew(a, since.Add(t.after))
	}
}

// forget has a connection looked at no more.
func (t *timeouts) forget(a *acks) { t.alarm.Set(a, time.Time{}) }

// expiringBefore is how long before its end a stream is told of it.
const expiringBefore = 30 * time.Second

// expiry ends connections when their tokens do.
type expiry struct {
	// Both are called with no lock held, one connection of a tenant after the other. The time
	// may have been set anew meanwhile: stands tells.
	warn func(*lifetime) // of the end that comes
	end  func(*lifetime)

	alarm *fair.Alarm[*lifetime] // static

	mu sync.Mutex // guards the connections' lifetimes; no lock but the alarm's is taken beneath it
}

func newExpiry(warn, end func(*lifetime)) *expiry {
	e := &expiry{warn: warn, end: end}
	e.alarm = fair.NewAlarm(func(l *lifetime) string { return l.conn.Tenant }, e.comes)
	return e
}

// set has a connection end at a time, sooner or later than it was to; at zero it
// does not end by itself.
func (e *expiry) set(c *Connection, expires time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.lifetime != nil {
		e.alarm.Set(c.lifetime, time.Time{})
		c.lifetime = nil
	}
	if !expires.IsZero() {
		c.lifetime = &lifetime{conn: c, expires: expires}
		e.alarm.Set(c.lifetime, expires.Add(-expiringBefore))
	}
}

// comes is of a lifetime whose end comes, or has come.
func (e *expiry) comes(l *lifetime) {
	if time.Now().Before(l.expires) {
		e.endsLater(l)
		e.warn(l)
	} else {
		e.end(l)
	}
}

func (e *expiry) endsLater(l *lifetime) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l.conn.lifetime == l {
		e.alarm.Set(l, l.expires)
	}
}

// stands says that a connection's time was not set anew.
func (e *expiry) stands(l *lifetime) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return l.conn.lifetime == l
}

// lifetime is of a connection that ends by itself; due is the warning,
// then the end.
type lifetime struct {
	due     due.Item
	conn    *Connection
	expires time.Time
}

func (l *lifetime) Due() *due.Item { return &l.due }
