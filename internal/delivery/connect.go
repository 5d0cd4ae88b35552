package delivery

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
)

// Subscription is what a client asks of a new stream.
type Subscription struct {
	ID        uuid.UUID // of the connection, but for its hub's mark; zero: a new one
	Transport Transport // empty: SSE
	Encoding  Encoding
	Tenant    string
	Profile   event.Profile
	Types     *event.Filter
	Watch     []event.Profile // nil: as configured; empty: none
	Metadata  map[string]string
	Cursor    string        // where to resume, as the client says; empty: nowhere
	Expires   time.Time     // when it ends unless prolonged; zero: not by itself
	Acks      bool          // its client acknowledges events that have a deadline
	Previous  uuid.UUID     // the connection that its client comes back from, as it says; zero: it does not
	Linger    time.Duration // how long it is there after its stream, for its client to ask again; zero: not at all
	Client    string        // names the client that asks again, among its profile's; may be empty
	Session   int64         // bytes that its TLS session takes while it is open; 0: there is none, or who holds it counts it
}

// Connect is Open for who needs no more of a connection than its first stream.
func (s *Streams) Connect(ctx context.Context, sub Subscription) (*Connection, error) {
	c, _, err := s.Open(ctx, sub)
	return c, err
}

// Open opens a connection, and a stream that has hub.ready and what follows the subscription's
// cursor. Every door enters here, and then serves the stream. The error is ErrDraining, ErrFull
// or ErrOverloaded if the hub takes no stream; ErrTaken; ctx's if nobody waits for the stream any
// more; and otherwise that of something the stream needs. Turned tells them apart. When many
// connect at once tenants take turns, so that no tenant waits for another's flood.
func (s *Streams) Open(ctx context.Context, sub Subscription) (*Connection, *engine.Stream, error) {
	if s.overload.Overloaded() {
		return nil, nil, s.TurnAway(sub.Tenant, overload.ErrOverloaded)
	}
	if err := s.opening.Acquire(ctx, sub.Tenant); err != nil {
		return nil, nil, err
	}
	defer s.opening.Release(sub.Tenant)
	c, stream, err := s.connect(ctx, sub)
	switch {
	case err == nil:
		return c, stream, nil
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, nil, err // its client has left
	case errors.Is(err, ErrTaken):
		return nil, nil, err // it is not for want of anything
	}
	return nil, nil, s.TurnAway(sub.Tenant, err)
}

func (s *Streams) connect(ctx context.Context, sub Subscription) (*Connection, *engine.Stream, error) {
	own, err := s.newConnection(sub)
	if err != nil {
		return nil, nil, err
	}
	var from history.Cursor
	var missed error
	if sub.Cursor != "" {
		if from, missed, err = s.locate(ctx, sub); err != nil {
			s.tenants.forget(sub.Tenant)
			return nil, nil, err
		}
	}
	fresh, stream := own.conn, own.conn.Stream
	c, t, err := s.again(ctx, own, sub, from, missed)
	if c == nil && err == nil {
		c = fresh
		t, err = s.admit(ctx, fresh, sub, from, missed)
	}
	if err != nil {
		s.tenants.forget(sub.Tenant)
		return nil, nil, err
	}
	if c != fresh {
		s.observer.Again(c)
	}
	if t != nil {
		s.replay(t, c, stream, from)
	}
	return c, stream, nil
}

// admit has c, which is new, among its tenant's connections. It returns the tenant if c is
// behind.
func (s *Streams) admit(ctx context.Context, c *Connection, sub Subscription, from history.Cursor, missed error) (in *tenant, err error) {
	client, asked := c.Asked()
	t, err := s.reserve(ctx, c, sub.Watch)
	if err != nil {
		return nil, err
	}
	s.opened(c)
	in, replaced := s.register(t, c, sub.Watch, from, missed)
	if replaced != nil {
		s.replaced(replaced)
	}
	if !sub.Expires.IsZero() {
		s.Prolong(c, sub.Expires)
	}
	if client != "" {
		s.Supersede(c.who(), client, asked)
	}
	return in, nil
}

// newConnection makes the connection of a subscription, which is nowhere yet, with its stream.
func (s *Streams) newConnection(sub Subscription) (*owner, error) {
	id := sub.ID
	if id == uuid.Nil {
		var err error
		if id, err = uuid.NewV7(); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	c := &Connection{
		ID: s.Marked(id), Tenant: sub.Tenant, Profile: sub.Profile, ConnectedAt: now, Metadata: sub.Metadata,
		Transport: cmp.Or(sub.Transport, TransportSSE), encoder: s.Encoder(sub.Encoding), filter: sub.Types,
		session: sub.Session,
	}
	if sub.Linger > 0 {
		c.linger = &lingering{client: sub.Client, time: sub.Linger}
		c.linger.asked.Store(now.UnixNano())
	}
	if sub.Acks && s.duties != nil {
		c.acks = &acks{conn: c, timeouts: s.timeouts, previous: sub.Previous}
	}
	c.activeAt.Store(now.UnixNano())
	own := &owner{streams: s, conn: c}
	c.Stream = s.engine.NewOwned(own)
	return own, nil
}

// Marked is the id that a connection of this hub has which was given an id.
func (s *Streams) Marked(id uuid.UUID) uuid.UUID {
	if s.node != nil {
		copy(id[len(id)-len(s.node.Mark):], s.node.Mark[:])
	}
	return id
}

// replaced tells of a connection that has given way to another of its profile's.
func (s *Streams) replaced(c *Connection) {
	s.logger.Debug("stream replaced", "reason", string(CloseReplaced), "tenant", c.Tenant, "connection", c.ID)
	if s.open.most.Profile > 1 { // one is one device at a time, which is meant
		s.crowded.Do(func() {
			s.logger.Warn("a profile reached its limit of connections, so its new ones replace its oldest. Give people who share a profile, such as anonymous visitors, one each, or raise the setting; this is logged once",
				"setting", "REALTIME_MAX_CONNECTIONS_PER_PROFILE", "most", s.open.most.Profile, "tenant", c.Tenant)
		})
	}
	s.closed(c, CloseReplaced)
}

// replay has a connection sent what it missed after a place.
func (s *Streams) replay(t *tenant, c *Connection, stream *engine.Stream, from history.Cursor) {
	r := &replay{
		tenant: t, conn: c, stream: stream, log: s.log, logger: s.logger, of: from.Epoch, told: from.Seq,
		reader: func() *history.Reader { return s.members.readerLocked(t, c.Profile) },
		sure:   s.tenants.sure,
		fail:   func() { s.removeIf(c, CloseUnavailable, func() bool { return c.Stream == stream }) },
		rest:   func() { s.Rest(c, stream) },
		count:  s.count,
	}
	if !s.members.OwnsMembership() {
		r.resolve, r.patience = s.members.resolveAll, ResolveTime
	}
	if !s.inline || r.step() {
		stream.Feed(r.step)
	}
}

// reserve admits c to its tenant and counts the memory that it will take against the shares
// of its tenant and its person. The tenant is not forgotten until register has added c.
func (s *Streams) reserve(ctx context.Context, c *Connection, watch []event.Profile) (*tenant, error) {
	t, err := s.tenants.openLocked(ctx, c.Tenant)
	if err != nil {
		return nil, err
	}
	defer t.mu.Unlock()
	c.Tenant = t.name // one copy of a name for all; before others can find c
	p := t.rooms.Person(c.Profile)
	if p != nil {
		c.Profile = p.Profile()
	}
	if err := t.keepLocked(c, c.weigh(c.filter, watch), watch); err != nil {
		return nil, err
	}
	if err := s.open.admit(c, p != nil && s.replaces(p), len(t.conns)+t.coming); err != nil {
		t.dropLocked(c)
		return nil, err
	}
	t.coming++
	return t, nil
}

// replaces says whether one more connection of p takes the place of its oldest.
func (s *Streams) replaces(p *member) bool {
	return s.open.most.Profile > 0 && len(p.Conns()) >= s.open.most.Profile
}

// register adds c, which was admitted, to its tenant. Its stream begins after from, or after
// the head if from is zero. register returns the tenant if c is behind, and the connection
// that c replaced, if any.
func (s *Streams) register(t *tenant, c *Connection, watch []event.Profile, from history.Cursor, missed error) (in *tenant, replaced *Connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	replaced = s.replaceLocked(t, c.Profile)
	t.addLocked(c, watch)
	resume, behind := s.beginLocked(t, c, from, missed, 0)
	s.count.connects.Add(resume, 1)
	if behind {
		in = t
	}
	return in, replaced
}

// beginLocked has c's stream begin after from, or after the head if from is zero. sent is up to where
// c was sent everything, if its client has asked again. It says how the stream begins, and whether c
// is behind.
func (s *Streams) beginLocked(t *tenant, c *Connection, from history.Cursor, missed error, sent uint64) (resume Resume, isBehind bool) {
	resume, from, missed = t.resumeLocked(c, from, missed)
	c.begun, c.place = from.Seq, from.Seq
	if c.acks != nil {
		s.beginAcksLocked(t, c, resume, from, sent)
	}
	s.greet(c, resume, from, missed)
	switch {
	case from.Seq < t.head.Seq:
		c.behind = &behind{shed: c.encoder.own.Shed, count: s.count, forgot: t.rooms.Forgotten(c.Profile)}
		return resume, true
	case resume != ResumeFresh:
		s.count.replayed.Add(0)
	}
	return resume, false
}

// replaceLocked ends the oldest connection of a profile that has as many as it may, and
// returns it.
func (s *Streams) replaceLocked(t *tenant, profile event.Profile) *Connection {
	p := t.rooms.Person(profile)
	if p == nil || !s.replaces(p) {
		return nil
	}
	oldest := p.Conns()[0]
	s.unheardLocked(oldest, CloseReplaced)
	s.leaveLocked(t, oldest, CloseReplaced)
	s.closeLocked(t, oldest, CloseReplaced)
	return oldest
}

// greet puts hub.ready on a stream, and hub.gap where something was missed for good.
func (s *Streams) greet(c *Connection, resume Resume, from history.Cursor, missed error) {
	var d engine.Batch
	d.Send(c.Stream, c.encoder.ready(c, resume, from))
	if missed != nil {
		s.count.gaps.Add(gapOf(missed), 1)
		d.Send(c.Stream, c.encoder.gap(gapOf(missed), from))
	}
	d.Flush()
}

// locate is where a subscription's cursor stands for its profile, and what it missed for
// good.
func (s *Streams) locate(ctx context.Context, sub Subscription) (from history.Cursor, missed, err error) {
	t, err := s.tenants.openLocked(ctx, sub.Tenant)
	if err != nil {
		return history.Cursor{}, nil, err
	}
	r := s.members.readerLocked(t, sub.Profile)
	t.mu.Unlock()
	from, err = s.log.Find(ctx, sub.Tenant, sub.Cursor, r)
	if errors.Is(err, history.ErrExpired) || errors.Is(err, history.ErrUnknownCursor) {
		return from, err, nil
	}
	return from, nil, err
}

// resumeLocked decides how c's stream begins, after which place, and what it missed for good.
// from is the place of c's cursor, or zero if c has none.
func (t *tenant) resumeLocked(c *Connection, from history.Cursor, missed error) (Resume, history.Cursor, error) {
	none := history.Epoch{}
	if from.Epoch != none && from.Epoch != t.head.Epoch { // the history has begun anew
		missed, from = history.ErrUnknownCursor, t.head
	}
	if missed == nil && from.Epoch != none && from.Seq < t.rooms.Forgotten(c.Profile) {
		missed = history.ErrExpired
	}
	switch {
	case missed != nil:
		return ResumePartial, from, missed
	case from.Epoch == none:
		return ResumeFresh, t.head, nil
	}
	return ResumeComplete, from, nil
}
