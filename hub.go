package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"realtimehub/internal/sse"
)

// Errors of the hub; handlers know which status each is.
var (
	ErrDraining = errors.New("the hub is draining")
	ErrFull     = errors.New("no more connections are taken")
)

// Observer is told, with no lock held, of connections that come and go: of each
// once, and of its coming before anybody else can find it.
type Observer interface {
	Connected(*Connection)
	Disconnected(*Connection)
}

// Hub accepts events, gives them their order and hands them to streams.
//
// Lock order: tenants' → (a stream's, Hub.byIDMu, expiry.mu), which are leaves.
type Hub struct {
	// Static after the start.
	*tenants
	*members
	engine   *sse.Engine
	observer Observer
	log      Log
	node     [4]byte // its mark in the ids of its connections, unless it is alone
	retry    time.Duration
	marks    HistoryPart
	shed     *sse.Frame
	inline   bool // what a client missed may begin before its head is written
	logger   *slog.Logger
	most     MostConnections

	count *hubCounts // what happens; guards itself

	lostIDs int                  // owned by Sweep
	dropped map[DropReason]int64 // owned by Sweep: what was dropped when it last looked
	drained chan struct{}        // closed by Drain at its end
	endOnce sync.Once

	expiry    expiry // guards itself
	turnedOff rate.Sometimes

	byIDMu sync.RWMutex
	// Guarded by byIDMu.
	byID     map[uuid.UUID]*Connection
	draining bool
}

// Subscription is what a client asks of a new stream.
type Subscription struct {
	Tenant   string
	Profile  ProfileRef
	Types    *TypeFilter
	Watch    []ProfileRef // nil: as configured; empty: none
	Unnamed  bool
	Metadata map[string]string
	Cursor   string    // where to resume, as the client says; empty: nowhere
	Expires  time.Time // when it ends unless prolonged; zero: not by itself
}

// MostConnections is how many may be open at once; 0 lifts a limit.
type MostConnections struct {
	All, Tenant int // one more is turned away
	Profile     int // one more takes the place of the profile's oldest
}

// Receipt answers one published event. Cursor is empty where nothing is stored.
type Receipt struct {
	ID          string
	Timestamp   time.Time
	Cursor      string
	Connections int
	Duplicate   bool
}

// HubConfig is what a hub needs to know.
type HubConfig struct {
	Retry        time.Duration // how long clients wait before they reconnect
	Heartbeat    time.Duration
	StreamBuffer int   // bytes
	MemoryBudget int64 // bytes that all streams together may owe
	Plain        bool  // every stream is written by its handler, as on systems without epoll
	Log          Log
	Marks        HistoryPart
	Membership   Membership // of all hubs of a cluster; nil: this hub's own
	Resolver     Resolver
	Most         MostConnections
	Logger       *slog.Logger
}

// HistoryPart is how much a tenant's history may grow until its quiet streams
// are told the place, a part of what is kept; 0 is not looked at.
type HistoryPart struct {
	Events int
	Bytes  int64
	Time   time.Duration
}

// NewHub makes a hub; Observe comes before its first connection.
func NewHub(cfg HubConfig) *Hub {
	h := &Hub{
		log: cfg.Log, retry: cfg.Retry, marks: cfg.Marks, logger: cfg.Logger, most: cfg.Most,
		inline: cfg.StreamBuffer == 0 || cfg.StreamBuffer >= 4*chunkBytes,
		byID:   map[uuid.UUID]*Connection{}, drained: make(chan struct{}), count: newHubCounts(),
	}
	h.tenants = newTenants(cfg.Log, cfg.Membership)
	h.members = newMembers(h.tenants, cfg.Membership, cfg.Resolver, cfg.Logger)
	h.expiry.warn, h.expiry.end = h.expiring, func(c *Connection) { h.Kick(c, CloseExpired) }
	h.turnedOff.Interval = time.Second
	h.log.Follow(h)
	gap, _ := sse.AppendEvent(nil, "", "hub.gap", []byte(`{"reason":"slow"}`))
	h.shed = sse.NewFrame(gap, false)
	h.engine = sse.NewEngine(sse.Config{
		Buffer: cfg.StreamBuffer, Budget: cfg.MemoryBudget, Heartbeat: cfg.Heartbeat, Plain: cfg.Plain,
		Shed: h.shed,
		Cut:  func() *sse.Frame { return h.Closing(CloseSlow) },
	})
	return h
}

// Observe names who is told of connections.
func (h *Hub) Observe(o Observer) { h.observer = o }

// ShareWith makes the hub one of a cluster, before its first connection.
func (h *Hub) ShareWith(s Sharing, node [4]byte) { h.sharing, h.node = s, node }

// Ready says why nothing can be stored now, nil when it can.
func (h *Hub) Ready() error { return h.log.Ready() }

// Engine writes the streams of this hub.
func (h *Hub) Engine() *sse.Engine { return h.engine }

// HubStats is what a hub has counted since it was made, and what it has now.
type HubStats struct {
	Streams     int
	Ready       bool // takes streams, and can store
	Connects    map[Resume]int64
	Closes      map[CloseReason]int64
	Refused     map[CloseReason]int64 // streams that were turned away
	Accepted    map[TargetKind]int64  // events
	Duplicates  int64
	Unconfirmed int64
	Dropped     map[DropReason]int64 // events, by stream
	Gaps        map[GapReason]int64
	Replayed    Histogram // events, by resume
	Engine      sse.Stats
	Log         LogStats
}

// Stats looks at everything; for a broker's answer it may wait a second.
func (h *Hub) Stats() HubStats {
	c, engine, log := h.count, h.engine.Stats(), h.log.Stats()
	h.byIDMu.RLock()
	streams, draining := len(h.byID), h.draining
	h.byIDMu.RUnlock()
	dropped := map[DropReason]int64{
		DropBehind: c.behind.Load(), DropBroker: int64(log.Unsent), DropUnreadable: int64(log.Unread),
	}
	for why, n := range engine.Dropped {
		dropped[DropReason(sse.Drop(why).String())] = n
	}
	gaps := c.gaps.now()
	gaps[GapSlow] += engine.Shed
	return HubStats{
		Streams: streams, Ready: !draining && h.Ready() == nil,
		Connects: c.connects.now(), Closes: c.closes.now(), Refused: c.refused.now(),
		Accepted: c.accepted.now(), Duplicates: c.duplicates.Load(), Unconfirmed: c.unconfirmed.Load(),
		Dropped: dropped, Gaps: gaps, Replayed: c.replayed.now(), Engine: engine, Log: log,
	}
}

// TenantStats is one tenant's part.
type TenantStats struct {
	Name     string
	Streams  int
	Accepted int64 // events, since the tenant was last found here
}

// Busiest are the n tenants with most streams, of those that have any.
func (h *Hub) Busiest(n int) []TenantStats {
	var all []TenantStats
	for _, name := range h.names() {
		if t := h.find(name); t != nil {
			if len(t.conns) > 0 {
				all = append(all, TenantStats{name, len(t.conns), t.accepted})
			}
			t.mu.Unlock()
		}
	}
	slices.SortFunc(all, func(a, b TenantStats) int {
		return cmp.Or(cmp.Compare(b.Streams, a.Streams), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(n, len(all))]
}

// Draining says that no new stream is taken.
func (h *Hub) Draining() bool {
	h.byIDMu.RLock()
	defer h.byIDMu.RUnlock()
	return h.draining
}

// Sweep forgets what nobody needs any more. Called now and then.
func (h *Hub) Sweep(now time.Time) {
	for _, name := range h.names() {
		t := h.find(name)
		if t == nil {
			continue
		}
		remembers := t.rooms.Remembers() || len(t.resolved) > 0
		t.mu.Unlock()
		var oldest Cursor
		err := errors.ErrUnsupported
		if remembers {
			oldest, err = h.log.Find(context.Background(), name, "")
		}
		if t := h.find(name); t != nil {
			for room, r := range t.resolved {
				// As long as history has events for the room, who resumes must get them.
				if now.Sub(r.used) > resolvedTTL && err == nil && r.at < oldest.Seq {
					t.setMembersLocked(room, nil)
					delete(t.resolved, room)
				}
			}
			if err == nil {
				t.rooms.Prune(oldest.Seq)
			}
			if h.marks.Time > 0 && t.unmarked.events > 0 && now.Sub(t.unmarked.since) >= h.marks.Time {
				t.markLocked(&t.gathered, now)
			}
			t.mu.Unlock()
			h.Flush(name)
		}
		h.forget(name)
	}
	h.log.Sweep(now)
	stats := h.Stats()
	if lost := stats.Log.LostIDs; lost > h.lostIDs {
		h.logger.Warn("ids forgotten before their window was over", "lost", lost)
		h.lostIDs = lost
	}
	for reason, n := range stats.Dropped {
		if reason.forGood() && n > h.dropped[reason] {
			h.logger.Warn("events dropped", "reason", string(reason), "events", n-h.dropped[reason])
		}
	}
	h.dropped = stats.Dropped
}

// Turned is why a client is turned away, as it is told, after an error of Connect.
func Turned(err error) CloseReason {
	if errors.Is(err, ErrDraining) {
		return CloseDrain
	}
	return CloseCapacity
}

// Connect opens a connection and puts hub.ready on its stream, and what follows
// the subscription's cursor: the one door of every transport, which then serves
// c.Stream. ErrDraining and ErrFull when none is taken; else an error is the log's.
func (h *Hub) Connect(ctx context.Context, s Subscription) (*Connection, error) {
	c, err := h.connect(ctx, s)
	if err != nil {
		h.count.refused.add(Turned(err), 1)
	}
	return c, err
}

func (h *Hub) connect(ctx context.Context, s Subscription) (*Connection, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	if h.sharing != nil { // so that any hub knows where it is
		copy(id[len(id)-len(h.node):], h.node[:])
	}
	now := time.Now()
	c := &Connection{
		ID: id, Tenant: s.Tenant, Profile: s.Profile, ConnectedAt: now, Metadata: s.Metadata,
		unnamed: s.Unnamed, filter: s.Types,
	}
	c.lastActivity.Store(now.UnixNano())
	c.Stream = h.engine.NewStream(func(why error) { h.ended(c, why) })

	var from Cursor
	var missed error
	if s.Cursor != "" {
		from, missed = h.log.Find(ctx, s.Tenant, s.Cursor)
		if missed != nil && !errors.Is(missed, ErrExpired) && !errors.Is(missed, ErrUnknownCursor) {
			return nil, missed
		}
	}
	h.observer.Connected(c)
	t, replaced, err := h.register(ctx, c, s.Watch, from, missed)
	if err != nil {
		h.observer.Disconnected(c)
		h.forget(c.Tenant)
		if !errors.Is(err, ErrDraining) {
			h.turnedOff.Do(func() {
				h.logger.Warn("stream refused", "reason", string(CloseCapacity), "tenant", c.Tenant, "err", err)
			})
		}
		return nil, err
	}
	if replaced != nil {
		h.logger.Debug("stream replaced", "reason", string(CloseReplaced), "tenant", c.Tenant, "connection", replaced.ID)
		replaced.Stream.Close(h.Closing(CloseReplaced))
		h.observer.Disconnected(replaced)
	}
	if !s.Expires.IsZero() {
		h.Prolong(c, s.Expires)
	}
	if t != nil {
		r := &replay{
			tenant: t, conn: c, log: h.log, resolve: h.resolve, logger: h.logger, told: from.Seq,
			allRooms: h.inCluster() && !h.ownsMembership(),
			fail:     func() { h.Kick(c, CloseCapacity) },
			count:    h.count,
		}
		if !h.inline || r.step() {
			c.Stream.Feed(r.step)
		}
	}
	return c, nil
}

// register adds c to its tenant, to be live after a place, or after the head when
// that is zero. The tenant is returned when c is behind, and the connection whose
// place c took.
func (h *Hub) register(ctx context.Context, c *Connection, watch []ProfileRef, from Cursor, missed error) (in *tenant, replaced *Connection, err error) {
	t, err := h.open(ctx, c.Tenant)
	if err != nil {
		return nil, nil, err
	}
	defer t.mu.Unlock()
	c.Tenant = t.name // one copy of a name for all; before others can find c
	p := t.peers[c.Profile]
	if p != nil {
		c.Profile = p.ref
		if h.most.Profile > 0 && len(p.conns) >= h.most.Profile {
			replaced = p.conns[0] // the oldest
		}
	}
	if err := h.admit(c, replaced, len(t.conns)); err != nil {
		return nil, nil, err
	}
	if replaced != nil {
		h.leaveLocked(t, replaced, CloseReplaced)
		p = t.peers[c.Profile]
	}
	c.index = len(t.conns)
	t.conns = append(t.conns, c)
	if p == nil {
		p = &peer{ref: c.Profile}
		t.peers[c.Profile] = p
		for room := range t.rooms.Of(c.Profile) {
			link(t.present, room, p)
		}
	}
	p.conns = append(p.conns, c)
	t.watchLocked(c, watch)

	if missed == nil && from.Epoch != "" && from.Seq < t.rooms.Forgotten() {
		missed = ErrExpired
	}
	resume := ResumeComplete
	switch {
	case missed != nil:
		resume = ResumePartial
	case from.Epoch == "":
		resume, from = ResumeFresh, t.head
	}
	h.count.connects.add(resume, 1)
	c.place = from.Seq
	var d sse.Delivery
	d.Send(c.Stream, h.ready(c, resume, from))
	if missed != nil {
		d.Send(c.Stream, gapFrame(h.count, missed, from))
	}
	d.Flush()
	switch {
	case from.Seq < t.head.Seq:
		c.behind = &behind{shed: h.shed, count: h.count}
		in = t
	case resume != ResumeFresh:
		h.count.replayed.add(0)
	}
	return in, replaced, nil
}

// admit makes c known by its id, if it may come: beside so many of its tenant, or
// in the place of one.
func (h *Hub) admit(c, replaced *Connection, beside int) error {
	h.byIDMu.Lock()
	defer h.byIDMu.Unlock()
	switch {
	case h.draining:
		return ErrDraining
	case replaced != nil:
	case h.most.All > 0 && len(h.byID) >= h.most.All, h.most.Tenant > 0 && beside >= h.most.Tenant:
		return ErrFull
	}
	h.byID[c.ID] = c
	return nil
}

// leaveLocked takes c out of its tenant, whose lock is held, and out of the hub.
func (h *Hub) leaveLocked(t *tenant, c *Connection, reason CloseReason) {
	h.count.closes.add(reason, 1)
	t.removeLocked(c)
	h.expiry.set(c, time.Time{})
	h.byIDMu.Lock()
	delete(h.byID, c.ID)
	h.byIDMu.Unlock()
}

// Prolong has a connection end at another time; at zero not by itself.
func (h *Hub) Prolong(c *Connection, expires time.Time) {
	t := h.find(c.Tenant)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	if !c.removed {
		h.expiry.set(c, expires)
	}
}

// expiring tells a connection's client that its token is about to end.
func (h *Hub) expiring(c *Connection, at time.Time) {
	data := AppendTime([]byte(`{"expiresAt":"`), at)
	frame, _ := sse.AppendEvent(nil, "", "hub.expiring", append(data, `"}`...))
	t := h.find(c.Tenant)
	if t == nil {
		return
	}
	var d sse.Delivery
	if !c.removed {
		d.Send(c.Stream, sse.NewFrame(frame, false))
	}
	t.mu.Unlock()
	d.Flush()
}

// ready is the first frame of every stream: its id is the place before the
// first event to come, so that a client cut before that resumes there. A partial
// one has none: its client is to learn of the gap even if it is cut before. The
// heartbeat is told for those who read streams by themselves: a silence of three is
// a dead stream.
func (h *Hub) ready(c *Connection, resume Resume, from Cursor) *sse.Frame {
	cursor := from.String()
	data := make([]byte, 0, 320) // by hand: it is part of what a connect costs
	data = append(append(data, `{"connectionId":"`...), c.ID.String()...)
	data = append(append(data, `","tenantId":"`...), c.Tenant...)
	data = c.Profile.AppendJSON(append(data, `","profile":`...))
	data = AppendTime(append(data, `,"connectedAt":"`...), c.ConnectedAt)
	data = append(append(data, `","resume":"`...), resume...)
	data = append(append(data, `","cursor":"`...), cursor...)
	data = append(data, `","heartbeatMs":`...)
	data = append(strconv.AppendInt(data, h.engine.Heartbeat().Milliseconds(), 10), '}')
	b := sse.AppendRetry(make([]byte, 0, len(data)+len(cursor)+64), h.retry)
	if resume == ResumePartial {
		cursor = ""
	}
	b, _ = sse.AppendEvent(b, cursor, "hub.ready", data)
	return sse.NewFrame(b, false)
}

// Closing is the last frame of a stream that the hub ends: when to come back is
// jittered, so that those cut together do not return together.
func (h *Hub) Closing(reason CloseReason) *sse.Frame {
	wait := h.retry + rand.N(h.retry)
	data, _ := json.Marshal(struct {
		Reason  CloseReason `json:"reason"`
		RetryMS int64       `json:"retryMs"`
	}{reason, wait.Milliseconds()})
	b, _ := sse.AppendEvent(sse.AppendRetry(nil, wait), "", "hub.closing", data)
	return sse.NewFrame(b, false)
}

// ended is the stream's own word that it is over.
func (h *Hub) ended(c *Connection, why error) {
	reason := CloseClient
	switch {
	case why == nil:
		reason = CloseDrain // who ended it for another reason has removed it
	case errors.Is(why, sse.ErrVanished):
		reason = CloseVanished
	case errors.Is(why, sse.ErrSlow):
		reason = CloseSlow
	case errors.Is(why, sse.ErrNoisy):
		reason = CloseNoisy
	}
	if reason == CloseSlow || reason == CloseNoisy {
		h.logger.Warn("stream cut", "reason", string(reason), "tenant", c.Tenant, "connection", c.ID)
	}
	h.remove(c, reason)
}

// remove takes c out of the hub; only the first call does anything.
func (h *Hub) remove(c *Connection, reason CloseReason) {
	t := h.find(c.Tenant)
	if t == nil {
		return
	}
	first := !c.removed // and c.drained is not changed any more
	if first {
		if c.drained && reason == CloseClient {
			reason = CloseDrain // it went because it was sent away
		}
		h.leaveLocked(t, c, reason)
	}
	last := len(t.conns) == 0
	t.mu.Unlock()
	if first {
		h.logger.Debug("stream ended", "reason", string(reason), "tenant", c.Tenant, "connection", c.ID)
		h.observer.Disconnected(c)
	}
	switch {
	case !first || !last: // who was first sees to it
	case h.inCluster():
		go h.forget(c.Tenant) // it may wait for the broker, and who ends streams must not
	default:
		h.forget(c.Tenant)
	}
}

// Kick closes a connection: it is gone from the hub when Kick returns.
func (h *Hub) Kick(c *Connection, reason CloseReason) {
	h.remove(c, reason) // before the stream's own end does, for no reason
	c.Stream.Close(h.Closing(reason))
}

// Drained is closed when Drain is over: requests that have no end of their own end.
func (h *Hub) Drained() <-chan struct{} { return h.drained }

// Drain refuses new streams and ends those that are open, spread over a time so
// that the next hub gets its clients one after the other; at once when ctx ends.
// Who is sent away is not announced as offline: they will be back.
func (h *Hub) Drain(ctx context.Context, over time.Duration) {
	defer h.endOnce.Do(func() {
		h.expiry.stop()
		close(h.drained)
	})
	h.byIDMu.Lock()
	h.draining = true
	open := slices.Collect(maps.Values(h.byID)) // in no order
	h.byIDMu.Unlock()
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
		if t := h.find(c.Tenant); t != nil {
			if !c.removed {
				c.drained = true
			}
			t.mu.Unlock()
		}
		c.Stream.Close(h.Closing(CloseDrain))
	}
}

// drainStep is how exactly Drain keeps its times.
const drainStep = 10 * time.Millisecond

// Connection finds an open connection of this hub, whichever tenant's; nil when
// there is none.
func (h *Hub) Connection(id string) *Connection {
	key, err := parseConnectionID(id)
	if err != nil {
		return nil
	}
	return h.connection(key)
}

func (h *Hub) connection(id uuid.UUID) *Connection {
	h.byIDMu.RLock()
	defer h.byIDMu.RUnlock()
	return h.byID[id]
}

// parseConnectionID takes the one form that connections' ids have.
func parseConnectionID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err == nil && len(text) != 36 {
		err = errors.New("not the form of an id")
	}
	return id, err
}

// Connections are a tenant's of this hub, or one profile's, in the order of their ids.
func (h *Hub) Connections(tenant string, of *ProfileRef) []*Connection {
	t := h.find(tenant)
	if t == nil {
		return nil
	}
	list := t.conns
	if of != nil {
		list = nil
		if p := t.peers[*of]; p != nil {
			list = p.conns
		}
	}
	list = slices.Clone(list)
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b *Connection) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return list
}

// Adjust gives a connection another filter or watch list; nil leaves it.
func (h *Hub) Adjust(c *Connection, types **TypeFilter, watch *[]ProfileRef) {
	t := h.find(c.Tenant)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	if c.removed {
		return
	}
	if types != nil {
		c.filter = *types
	}
	if watch != nil {
		t.watchLocked(c, *watch)
	}
}

// Publish accepts events, all or none, and hands them to the streams of their
// targets: those of one tenant take consecutive places, in the order given. It
// waits for a membership service, if there is one, and for no client. Ids and
// timestamps are filled in. ErrMembership, ErrNotStored: nothing was stored; an
// *UnconfirmedError: it may have been.
func (h *Hub) Publish(ctx context.Context, events []*Event) ([]Receipt, error) {
	now := time.Now()
	entries := make([]*Entry, len(events))
	for i, e := range events {
		entries[i] = &Entry{Event: e, Chosen: e.ID != "", Here: true}
		if e.ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return nil, err
			}
			e.ID = id.String()
		}
		e.Timestamp = now
		entries[i].Envelope = e.Seal()
		if err := h.settle(ctx, e, now); err != nil {
			return nil, err
		}
	}
	if err := h.log.Append(ctx, entries); errors.Is(err, ErrUnconfirmed) {
		ids := make([]string, len(events))
		for i, e := range events {
			ids[i] = e.ID
		}
		h.count.unconfirmed.Add(int64(len(events)))
		return nil, &UnconfirmedError{ids, err}
	} else if err != nil {
		return nil, err
	}
	debug := h.logger.Enabled(ctx, slog.LevelDebug)
	receipts := make([]Receipt, len(entries))
	for i, e := range entries {
		if debug {
			h.logger.Debug("published", "tenant", e.Event.TenantID, "type", e.Event.Type, "id", e.Event.ID,
				"traceparent", e.Event.TraceParent, "duplicate", e.Duplicate)
		}
		receipts[i] = Receipt{ID: e.Event.ID, Timestamp: now, Connections: e.Reached, Duplicate: e.Duplicate}
		if e.Duplicate {
			receipts[i].Timestamp = e.FirstAt
			h.count.duplicates.Add(1)
		} else {
			h.count.accepted.add(e.Event.Target.Kind, 1)
		}
		if e.Cursor.Seq > 0 {
			receipts[i].Cursor = e.Cursor.String()
		}
		if h.sharing != nil && !e.Duplicate {
			receipts[i].Connections += h.countElsewhere(ctx, e.Event)
		}
	}
	return receipts, nil
}

// countElsewhere is how many of an event's connections other hubs hold.
func (h *Hub) countElsewhere(ctx context.Context, e *Event) int {
	t, err := h.know(ctx, e.TenantID)
	if err != nil {
		return 0 // it is stored, and this is only told
	}
	defer t.mu.Unlock()
	room, _ := e.Target.Room()
	return h.sharing.Count(e, func(p ProfileRef) bool { return t.rooms.Has(room, p) })
}

// Say delivers an ephemeral event of the hub's own making to its own streams.
func (h *Hub) Say(ctx context.Context, e *Event) error {
	if err := h.settle(ctx, e, e.Timestamp); err != nil {
		return err
	}
	h.deliver(e.TenantID, []*Entry{{Event: e, Envelope: e.Seal()}}, false)
	h.Flush(e.TenantID)
	return nil
}

// UnconfirmedError is ErrUnconfirmed of events with these ids, in their order.
type UnconfirmedError struct {
	IDs []string
	err error
}

func (e *UnconfirmedError) Error() string { return e.err.Error() }
func (e *UnconfirmedError) Unwrap() error { return e.err }

// Deliver implements Sink.
func (h *Hub) Deliver(tenant string, entries []*Entry) { h.deliver(tenant, entries, true) }

// deliver hands entries to their streams; what was published is timed.
func (h *Hub) deliver(tenant string, entries []*Entry, published bool) {
	t := h.find(tenant)
	if t == nil {
		return
	}
	defer t.mu.Unlock()
	for _, e := range entries {
		p := parcelOf(e)
		switch {
		case e.Here:
			t.accepted++
			p.since = e.Event.Timestamp
		case published: // another hub's clock may be wrong
			p.since = time.Now()
		}
		if p.place > 0 && p.place <= t.head.Seq && t.attached {
			continue // it was told when it was attached
		}
		if p.place > 0 {
			t.head = e.Cursor
			t.unmarked.events++
			t.unmarked.bytes += e.Size()
		}
		if e.Event.Target.Kind == KindConnection {
			p.only = h.Connection(e.Event.Target.ConnectionID)
		}
		e.Reached += t.deliverLocked(&t.gathered, &p)
	}
	grown := t.unmarked
	if h.marks.Events > 0 && grown.events >= h.marks.Events || h.marks.Bytes > 0 && grown.bytes >= h.marks.Bytes {
		t.markLocked(&t.gathered, entries[0].Event.Timestamp)
	}
}

// Flush implements Sink.
func (h *Hub) Flush(tenant string) {
	if t := h.find(tenant); t != nil {
		t.flush()
	}
}

// Prepare implements Sink: the rooms of what another hub has published are settled
// here as well.
func (h *Hub) Prepare(tenant string, entries []*Entry) {
	for _, e := range entries {
		h.settle(context.Background(), e.Event, e.Event.Timestamp) // logged; else the last answer holds
	}
}

// Quiet implements Sink: quiet streams learn the place.
func (h *Hub) Quiet(tenant string, place Cursor) {
	if t := h.find(tenant); t != nil {
		if t.attached && place.Seq > t.head.Seq {
			t.head = place
			t.markLocked(&t.gathered, time.Now())
		}
		t.flush()
	}
}

// Lost implements Sink: streams end, and resume where they can.
func (h *Hub) Lost(tenant string, place Cursor) {
	t := h.find(tenant)
	if t == nil {
		return
	}
	t.head = place
	open := slices.Clone(t.conns)
	for _, c := range open {
		c.drained = true // they will be back
	}
	t.mu.Unlock()
	h.count.gaps.add(GapLost, len(open))
	if len(open) > 0 {
		h.logger.Warn("streams sent back: the history has a gap", "reason", string(CloseDrain), "tenant", tenant, "streams", len(open))
	}
	for _, c := range open {
		c.Stream.Close(h.Closing(CloseDrain))
	}
}

// History reads a tenant's events after a cursor, or from the oldest on when that
// is empty: limit at most. gap says that some before them are missing for good.
func (h *Hub) History(ctx context.Context, tenant, after string, limit int) (page Page, gap bool, err error) {
	from, err := h.log.Find(ctx, tenant, after)
	for {
		lost := errors.Is(err, ErrExpired) || errors.Is(err, ErrUnknownCursor)
		if err != nil && !lost {
			return Page{}, false, err
		}
		gap = gap || lost
		page, err = h.log.Read(ctx, tenant, Query{After: from.Seq, Limit: limit, Bytes: historyBytes})
		if err == nil {
			return page, gap, nil
		}
		from = page.Next
	}
}

// historyBytes bounds one answer of History.
const historyBytes = 4 << 20

// Notify tells a tenant's streams of changes: each stream with a watch list of
// those on its list, and every other stream of all of them in one write, or of
// the digest alone when there is one. With shared set, only streams of profiles
// that have a room in common with who changed, or are who changed, are told.
func (h *Hub) Notify(name string, notices []Notice, digest *Event, shared bool) {
	t := h.find(name)
	if t == nil {
		return
	}
	var d sse.Delivery
	parcels := make([]*parcel, len(notices))
	for i, n := range notices {
		parcels[i] = pack(n.Event)
		for c := range t.watchers[n.About] {
			if !shared || c.Profile == n.About || t.rooms.Share(c.Profile, n.About) {
				t.sendWantedLocked(&d, c, parcels[i])
			}
		}
	}
	all := parcels
	if digest != nil {
		all = []*parcel{pack(digest)}
	}
	if !shared {
		whole := &bundle{parcels: all}
		for _, c := range t.conns {
			if c.watch == nil {
				t.sendBundleLocked(&d, c, whole)
			}
		}
	} else {
		t.notifySharedLocked(&d, notices, all, digest != nil)
	}
	t.mu.Unlock()
	d.Flush()
}
