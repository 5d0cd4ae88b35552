package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"realtimehub/internal/count"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
	"realtimehub/internal/pace"
	"realtimehub/internal/quota"
	"realtimehub/internal/sse"
)

// Observer is told, with no lock held, of connections that come and go: of each
// once, after it was admitted and before its tenant has it; and of none that is refused.
type Observer interface {
	Connected(*Connection)
	Disconnected(*Connection)
}

// streams are a hub's open ones: each comes in through Connect, and ends once.
type streams struct {
	// Static after the start.
	frames
	tenants  *tenants
	members  *members
	engine   *engine.Engine
	observer Observer
	log      history.Log
	node     [4]byte // its mark in the ids of its connections, unless it is alone
	shed     *engine.Frame
	inline   bool // what a client missed may begin before its head is written
	logger   *slog.Logger

	// These guard themselves.
	directory
	overload  *overload.Guard
	away      *overload.Returns
	opening   *fair.Semaphore[string] // of tenants, by Connect
	expiry    expiry
	count     *hubCounts
	turnedOff rate.Sometimes
	crowded   sync.Once
	cuts      count.Words[CloseReason] // that no log line has told of
	cutting   pace.Reporter
	relief    struct{ shed, cut, owed atomic.Int64 } // likewise, but for owed
	relieving pace.Reporter

	drained chan struct{} // closed by Refuse
	endOnce sync.Once
}

// start makes the engine that writes them.
func (x *streams) start(cfg engine.Config, use overload.Use, kept func() int64) {
	x.openAtOnce(8 * runtime.GOMAXPROCS(0)) // more would only wait for the processors
	x.expiry.warn, x.expiry.end = x.expiring, x.expired
	x.turnedOff.Interval = time.Second
	x.cuts = count.NewWords(CloseSlow, CloseNoisy)
	x.cutting.Say = func() {
		for reason, n := range x.cuts {
			if n := n.Swap(0); n > 0 {
				x.logger.Warn("streams cut", "reason", string(reason), "streams", n)
			}
		}
	}
	x.relieving.Say = func() {
		x.logger.Warn("memory budget: those who do not read were relieved", "budget", cfg.Budget,
			"shed", x.relief.shed.Swap(0), "cut", x.relief.cut.Swap(0), "owed", x.relief.owed.Load())
	}
	cfg.Relieved = x.relieved
	x.shed = shedFrame()
	cfg.Shed, cfg.Cut = x.shed, func() *engine.Frame { return x.Closing(CloseSlow) }
	cfg.Beat = engine.NewFrame([]byte(sse.Comment), true)
	x.engine = engine.NewEngine(cfg)
	x.overload = overload.New(use, kept, x.engine.Relieve, x.logger)
	x.away = overload.NewReturns()
}

// openAtOnce is how many streams are opened at a time, of one tenant half of them.
func (x *streams) openAtOnce(n int) { x.opening = fair.NewSemaphore(quota.New[string](int64(n), 1)) }

// relieved is the engine's word of what it took to keep to the memory budget.
func (x *streams) relieved(r engine.Relief) {
	x.relief.shed.Add(int64(r.Shed))
	x.relief.cut.Add(int64(r.Cut))
	x.relief.owed.Store(r.Owed)
	x.relieving.Tell()
}

// Observe names who is told of connections.
func (x *streams) Observe(o Observer) { x.observer = o }

// Engine writes the streams of this hub.
func (x *streams) Engine() *engine.Engine { return x.engine }

// Subscription is what a client asks of a new stream.
type Subscription struct {
	Tenant   string
	Profile  event.Profile
	Types    *event.Filter
	Watch    []event.Profile // nil: as configured; empty: none
	Unnamed  bool
	Metadata map[string]string
	Cursor   string    // where to resume, as the client says; empty: nowhere
	Expires  time.Time // when it ends unless prolonged; zero: not by itself
}

// Turned is why a client is turned away, as it is told, after an error of Connect.
func Turned(err error) CloseReason {
	switch {
	case errors.Is(err, ErrDraining):
		return CloseDrain
	case errors.Is(err, history.ErrUnconfirmed), errors.Is(err, history.ErrNotStored):
		return CloseUnavailable
	}
	return CloseCapacity
}

// Away is how long a client stays away that was turned away for an error, beside what
// every one waits.
func (x *streams) Away(tenant string, err error) time.Duration {
	if errors.Is(err, ErrDraining) {
		return 0 // another hub has room
	}
	after := x.away.After(tenant, !errors.Is(err, ErrTenantFull))
	if errors.Is(err, overload.ErrOverloaded) {
		after += overload.Away
	}
	return overload.Jittered(after)
}

// Connect opens a connection and puts hub.ready on its stream, and what follows
// the subscription's cursor: the one door of every transport, which then serves
// c.Stream. ErrDraining, ErrFull and ErrOverloaded when none is taken; else an error is
// of what the stream needs, and Turned tells which; or ctx's: nobody waits for the stream any
// more. However many come at once, tenants take turns: a flood of one tenant's is not before
// another's.
func (x *streams) Connect(ctx context.Context, s Subscription) (*Connection, error) {
	if x.overload.Overloaded() {
		return nil, x.TurnAway(s.Tenant, overload.ErrOverloaded)
	}
	if err := x.opening.Acquire(ctx, s.Tenant); err != nil {
		return nil, err
	}
	defer x.opening.Release(s.Tenant)
	c, err := x.connect(ctx, s)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, err // its client has left
	}
	return nil, x.TurnAway(s.Tenant, err)
}

// TurnAway counts a stream that is not taken, and returns err.
func (x *streams) TurnAway(tenant string, err error) error {
	why := Turned(err)
	x.count.refused.Add(why, 1)
	if why == CloseDrain {
		return err
	}
	x.turnedOff.Do(func() {
		x.logger.Warn("stream refused", "reason", string(why), "tenant", tenant, "err", err)
	})
	return err
}

func (x *streams) connect(ctx context.Context, s Subscription) (*Connection, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	if x.tenants.sharing != nil { // so that any hub knows where it is
		copy(id[len(id)-len(x.node):], x.node[:])
	}
	now := time.Now()
	c := &Connection{
		ID: id, Tenant: s.Tenant, Profile: s.Profile, ConnectedAt: now, Metadata: s.Metadata,
		unnamed: s.Unnamed, filter: s.Types,
	}
	c.lastActivity.Store(now.UnixNano())
	c.Stream = x.engine.NewOwned(owner{x, c})

	var from history.Cursor
	var missed error
	if s.Cursor != "" {
		if from, missed, err = x.locate(ctx, s); err != nil {
			x.tenants.forget(s.Tenant)
			return nil, err
		}
	}
	t, err := x.reserve(ctx, c, s.Watch)
	if err != nil {
		x.tenants.forget(c.Tenant)
		return nil, err
	}
	x.observer.Connected(c)
	t, replaced := x.register(t, c, s.Watch, from, missed)
	if replaced != nil {
		x.logger.Debug("stream replaced", "reason", string(CloseReplaced), "tenant", c.Tenant, "connection", replaced.ID)
		if x.most.Profile > 1 { // one is one device at a time, which is meant
			x.crowded.Do(func() {
				x.logger.Warn("a profile has as many connections as one may have: its oldest give way to new ones. People who share a profile, such as anonymous visitors, need one each, or the setting has to be raised; this is said once",
					"setting", "REALTIME_MAX_CONNECTIONS_PER_PROFILE", "most", x.most.Profile, "tenant", c.Tenant)
			})
		}
		x.observer.Disconnected(replaced)
	}
	if !s.Expires.IsZero() {
		x.Prolong(c, s.Expires)
	}
	if t != nil {
		r := &replay{
			tenant: t, conn: c, log: x.log, logger: x.logger, of: from.Epoch, told: from.Seq,
			reader: func() *history.Reader { return x.members.readerLocked(t, c.Profile) },
			sure:   x.tenants.sure,
			fail:   func() { x.Kick(c, CloseUnavailable) },
			count:  x.count,
		}
		if !x.members.ownsMembership() {
			r.resolve, r.patience = x.members.resolveAll, resolveTime
		}
		if !x.inline || r.step() {
			c.Stream.Feed(r.step)
		}
	}
	return c, nil
}

// locate is where a subscription's cursor stands for its profile, and what it missed for
// good.
func (x *streams) locate(ctx context.Context, s Subscription) (from history.Cursor, missed, err error) {
	t, err := x.tenants.open(ctx, s.Tenant)
	if err != nil {
		return history.Cursor{}, nil, err
	}
	r := x.members.readerLocked(t, s.Profile)
	t.mu.Unlock()
	from, err = x.log.Find(ctx, s.Tenant, s.Cursor, r)
	if errors.Is(err, history.ErrExpired) || errors.Is(err, history.ErrUnknownCursor) {
		return from, err, nil
	}
	return from, nil, err
}

// reserve admits c to its tenant, which is not forgotten until register adds it, and has
// what is to be kept for it taken of its shares.
func (x *streams) reserve(ctx context.Context, c *Connection, watch []event.Profile) (*tenant, error) {
	t, err := x.tenants.open(ctx, c.Tenant)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	c.Tenant = t.name // one copy of a name for all; before others can find c
	p := t.rooms.Person(c.Profile)
	if p != nil {
		c.Profile = p.Profile()
	}
	if err := t.keepLocked(c, weigh(c.filter, watch, c.Metadata), watch); err != nil {
		return nil, err
	}
	if err := x.admit(c, p != nil && x.replaces(p), len(t.conns)+t.coming); err != nil {
		t.dropLocked(c)
		return nil, err
	}
	t.coming++
	return t, nil
}

// replaces says whether one more connection of p takes the place of its oldest.
func (x *streams) replaces(p *member) bool {
	return x.most.Profile > 0 && len(p.Conns()) >= x.most.Profile
}

// register adds c, which was admitted, to its tenant, to be live after a place, or
// after the head when that is zero. The tenant is returned when c is behind, and the
// connection whose place c took.
func (x *streams) register(t *tenant, c *Connection, watch []event.Profile, from history.Cursor, missed error) (in *tenant, replaced *Connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.coming--
	c.joined = true
	if p := t.rooms.Person(c.Profile); p != nil && x.replaces(p) {
		replaced = p.Conns()[0] // the oldest
		x.leaveLocked(t, replaced, CloseReplaced)
		x.closeLocked(t, replaced, CloseReplaced)
	}
	c.index = len(t.conns)
	t.conns = append(t.conns, c)
	t.open.Store(int32(len(t.conns)))
	t.rooms.Connect(c.Profile, c)
	t.watchLocked(c, watch)
	t.settleLocked()

	if from.Epoch != (history.Epoch{}) && from.Epoch != t.head.Epoch { // the history has begun anew
		missed, from = history.ErrUnknownCursor, t.head
	}
	if missed == nil && from.Epoch != (history.Epoch{}) && from.Seq < t.rooms.Forgotten(c.Profile) {
		missed = history.ErrExpired
	}
	resume := ResumeComplete
	switch {
	case missed != nil:
		resume = ResumePartial
	case from.Epoch == (history.Epoch{}):
		resume, from = ResumeFresh, t.head
	}
	x.count.connects.Add(resume, 1)
	c.place = from.Seq
	var d engine.Batch
	d.Send(c.Stream, x.ready(c, resume, from))
	if missed != nil {
		d.Send(c.Stream, gapFrame(x.count, missed, from))
	}
	d.Flush()
	switch {
	case from.Seq < t.head.Seq:
		c.behind = &behind{shed: x.shed, count: x.count, forgot: t.rooms.Forgotten(c.Profile)}
		in = t
	case resume != ResumeFresh:
		x.count.replayed.Add(0)
	}
	return in, replaced
}

// leaveLocked takes c out of its tenant, whose lock is held, and out of the hub.
func (x *streams) leaveLocked(t *tenant, c *Connection, reason CloseReason) {
	x.count.closes.Add(reason, 1)
	t.removeLocked(c)
	x.expiry.set(c, time.Time{})
	x.drop(c)
}

// closeLocked ends c's stream, with the place that its client may go on from.
func (x *streams) closeLocked(t *tenant, c *Connection, reason CloseReason) {
	c.Stream.Close(x.closing(reason, 0, t.knownLocked(c)))
}

// Prolong has a connection end at another time; at zero not by itself. It says whether
// the connection was there still.
func (x *streams) Prolong(c *Connection, expires time.Time) bool {
	t := x.tenants.find(c.Tenant)
	if t == nil {
		return false
	}
	defer t.mu.Unlock()
	if !c.removed {
		x.expiry.set(c, expires)
	}
	return !c.removed
}

// expiring tells a connection's client that its token is about to end.
func (x *streams) expiring(l *lifetime) {
	t := x.tenants.find(l.conn.Tenant)
	if t == nil {
		return
	}
	var d engine.Batch
	if x.expiry.stands(l) {
		d.Send(l.conn.Stream, expiringFrame(l.expires))
	}
	t.mu.Unlock()
	d.Flush()
}

// expired ends a connection whose time is over.
func (x *streams) expired(l *lifetime) {
	x.removeIf(l.conn, CloseExpired, func() bool { return x.expiry.stands(l) })
}

// Adjust gives a connection another filter or watch list; nil leaves it. It says
// whether the connection was there still. allowance.ErrTenant, allowance.ErrPerson: it has what it
// had.
func (x *streams) Adjust(c *Connection, types **event.Filter, watch *[]event.Profile) (found bool, err error) {
	t := x.tenants.find(c.Tenant)
	if t == nil {
		return false, nil
	}
	defer t.mu.Unlock()
	if c.removed {
		return false, nil
	}
	filter, list := c.filter, c.watchList()
	if types != nil {
		filter = *types
	}
	if watch != nil {
		list = *watch
	}
	if err := t.keepLocked(c, weigh(filter, list, c.Metadata), list); err != nil {
		return true, err
	}
	c.filter = filter
	if watch != nil {
		t.watchLocked(c, list)
	}
	t.settleLocked()
	return true, nil
}

// Connections are a tenant's of this hub, or one profile's, in no order.
func (x *streams) Connections(tenant string, of *event.Profile) []*Connection {
	t := x.tenants.find(tenant)
	if t == nil {
		return nil
	}
	list := t.conns
	if of != nil {
		list = nil
		if p := t.rooms.Person(*of); p != nil {
			list = p.Conns()
		}
	}
	defer t.mu.Unlock()
	return slices.Clone(list)
}

// owner is what the engine knows of a connection.
type owner struct {
	streams *streams
	conn    *Connection
}

// Gone implements engine.Owner. Whoever writes this stream writes other tenants' as well: it
// does not wait for a tenant that is busy.
func (o owner) Gone(why error) {
	t, busy := o.streams.tenants.tryFind(o.conn.Tenant)
	if busy {
		go o.streams.ended(o.conn, why)
		return
	}
	if t != nil {
		t.mu.Unlock()
	}
	o.streams.ended(o.conn, why)
}

// Group implements engine.Owner: tenants do not pay for each other.
func (o owner) Group() string { return o.conn.Tenant }

// Beat implements engine.Owner: the place is told instead of a comment where it has moved, and
// the tenant is not busy.
func (o owner) Beat(s *engine.Stream, d *engine.Batch, beat *engine.Frame) {
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
func (x *streams) ended(c *Connection, why error) {
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
		x.cuts.Add(reason, 1) // remove logs each at debug
		x.cutting.Tell()
	}
	x.removeIf(c, reason, nil)
}

// removeIf takes c out of the hub where it is so, which is asked under the tenant's
// lock, and ends its stream; nil: that has ended. Only the first call does anything, and
// says so.
func (x *streams) removeIf(c *Connection, reason CloseReason, so func() bool) (first bool) {
	t := x.tenants.find(c.Tenant)
	if t == nil {
		return false
	}
	// Who is admitted but not in its tenant yet is not to be found. After this c.drained
	// is not changed any more.
	first = c.joined && !c.removed && (so == nil || so())
	if first {
		if c.drained && reason == CloseClient {
			reason = CloseDrain // it went because it was sent away
		}
		x.leaveLocked(t, c, reason)
		if so != nil {
			x.closeLocked(t, c, reason)
		}
	}
	last := len(t.conns) == 0
	t.mu.Unlock()
	if first {
		x.logger.Debug("stream ended", "reason", string(reason), "tenant", c.Tenant, "connection", c.ID)
		x.observer.Disconnected(c)
	}
	switch {
	case !first || !last: // who was first sees to it
	case x.tenants.inCluster():
		go x.tenants.forget(c.Tenant) // it may wait for the broker, and who ends streams must not
	default:
		x.tenants.forget(c.Tenant)
	}
	return first
}

// Kick closes a connection, and says whether it was there still: it is gone from the
// hub when Kick returns.
func (x *streams) Kick(c *Connection, reason CloseReason) bool {
	return x.removeIf(c, reason, func() bool { return true }) // before the stream's own end does, for no reason
}

// Drained is closed by Refuse, and when Drain is over: requests that have no end of
// their own end.
func (x *streams) Drained() <-chan struct{} { return x.drained }

// Refuse has no new stream taken, and requests that have no end of their own end.
func (x *streams) Refuse() {
	x.shut()
	x.endOnce.Do(func() {
		x.expiry.stop()
		close(x.drained)
	})
}

// Drain refuses new streams and ends those that are open, spread over a time so
// that the next hub gets its clients one after the other; at once when ctx ends.
// Who is sent away is not announced as offline: they will be back.
func (x *streams) Drain(ctx context.Context, over time.Duration) {
	defer x.Refuse()
	open := x.shut()
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
		if t := x.tenants.find(c.Tenant); t != nil {
			if !c.removed {
				c.drained = true
				x.closeLocked(t, c, CloseDrain)
			}
			t.mu.Unlock()
		}
	}
}

// drainStep is how exactly Drain keeps its times.
const drainStep = 10 * time.Millisecond
