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
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/sse"
)

// Errors of the hub; handlers know which status each is.
var (
	ErrDraining   = errors.New("the hub is draining")
	ErrMembership = errors.New("the membership service does not answer")
	ErrExternal   = errors.New("membership is owned by the membership service")
)

// CloseReason says why the hub ended a stream; the word is the contract's, the
// log's and the metrics' at once.
type CloseReason string

// The reasons that occur.
const (
	CloseDrain  CloseReason = "drain"
	CloseKicked CloseReason = "kicked"
	CloseSlow   CloseReason = "slow"
)

// Resolver asks whoever owns membership. It may wait; the hub calls it with no
// lock held. A nil Roster means that the hub's own rooms are the truth.
type Resolver interface {
	Resolve(ctx context.Context, tenant string, room Room) (*Roster, error)
}

// OwnMembership is the Resolver of a hub that owns membership itself.
type OwnMembership struct{}

// Resolve has nothing to ask.
func (OwnMembership) Resolve(context.Context, string, Room) (*Roster, error) { return nil, nil }

// Observer is told, with no lock held, of connections that come and go: of each
// once, and of its coming before anybody else can find it.
type Observer interface {
	Connected(*Connection)
	Disconnected(*Connection)
}

// Hub accepts events, gives them their order and hands them to streams.
//
// Lock order: Hub.mu → tenant.mu → (a stream's, Hub.byIDMu), which are leaves.
type Hub struct {
	// Static after the start.
	engine   *sse.Engine
	resolver Resolver
	observer Observer
	newLog   func() Log
	retry    time.Duration
	logger   *slog.Logger

	mu      sync.RWMutex
	tenants map[string]*tenant // guarded by mu

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
	Resolver     Resolver
	Logger       *slog.Logger
}

// NewHub makes a hub; Observe comes before its first connection.
func NewHub(cfg HubConfig) *Hub {
	h := &Hub{
		resolver: cfg.Resolver, newLog: NewMemoryLog, retry: cfg.Retry, logger: cfg.Logger,
		tenants: map[string]*tenant{}, byID: map[uuid.UUID]*Connection{},
	}
	gap, _ := sse.AppendEvent(nil, "", "hub.gap", []byte(`{"reason":"slow"}`))
	h.engine = sse.NewEngine(sse.Config{
		Buffer: cfg.StreamBuffer, Budget: cfg.MemoryBudget, Heartbeat: cfg.Heartbeat, Plain: cfg.Plain,
		Shed: sse.NewFrame(gap, false),
		Cut:  func() *sse.Frame { return h.Closing(CloseSlow) },
	})
	return h
}

// Observe names who is told of connections.
func (h *Hub) Observe(o Observer) { h.observer = o }

// Engine writes the streams of this hub.
func (h *Hub) Engine() *sse.Engine { return h.engine }

// Draining says that no new stream is taken.
func (h *Hub) Draining() bool {
	h.byIDMu.RLock()
	defer h.byIDMu.RUnlock()
	return h.draining
}

// lock returns the tenant locked, making it when create is set; else nil where
// there is none.
func (h *Hub) lock(name string, create bool) *tenant {
	for {
		h.mu.RLock()
		t := h.tenants[name]
		h.mu.RUnlock()
		if t == nil {
			if !create {
				return nil
			}
			h.mu.Lock()
			if t = h.tenants[name]; t == nil {
				t = &tenant{
					name: name, log: h.newLog(),
					resolved: map[Room]*resolved{}, peers: map[ProfileRef]*peer{},
					present: map[Room]map[*peer]struct{}{}, watchers: map[ProfileRef]map[*Connection]struct{}{},
				}
				h.tenants[name] = t
			}
			h.mu.Unlock()
		}
		t.mu.Lock()
		if !t.forgotten {
			return t
		}
		t.mu.Unlock()
	}
}

// forget drops a tenant that has no stream, history or membership.
func (h *Hub) forget(name string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tenants[name]
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	own := !t.rooms.Empty() && len(t.resolved) == 0
	if len(t.conns) == 0 && !own && t.log.Idle(now) {
		t.forgotten = true
		delete(h.tenants, name)
	}
}

// Sweep forgets what nobody needs any more. Called now and then.
func (h *Hub) Sweep(now time.Time) {
	h.mu.RLock()
	names := make([]string, 0, len(h.tenants))
	for name := range h.tenants {
		names = append(names, name)
	}
	h.mu.RUnlock()
	for _, name := range names {
		if t := h.lock(name, false); t != nil {
			for room, r := range t.resolved {
				if now.Sub(r.used) > resolvedTTL {
					t.setMembersLocked(room, nil)
					delete(t.resolved, room)
				}
			}
			t.mu.Unlock()
		}
		h.forget(name, now)
	}
}

// Connect opens a connection and puts hub.ready on its stream: the one door of
// every transport, which then serves c.Stream. ErrDraining when none is taken.
func (h *Hub) Connect(s Subscription) (*Connection, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := &Connection{
		ID: id, Tenant: s.Tenant, Profile: s.Profile, ConnectedAt: now, Metadata: s.Metadata,
		unnamed: s.Unnamed, filter: s.Types,
	}
	c.lastActivity.Store(now.UnixNano())
	c.Stream = h.engine.NewStream(func(why error) { h.ended(c, why) })

	h.observer.Connected(c)
	if err := h.register(c, s.Watch); err != nil {
		h.observer.Disconnected(c)
		return nil, err
	}
	return c, nil
}

func (h *Hub) register(c *Connection, watch []ProfileRef) error {
	t := h.lock(c.Tenant, true)
	defer t.mu.Unlock()
	h.byIDMu.Lock()
	draining := h.draining
	if !draining {
		h.byID[c.ID] = c
	}
	h.byIDMu.Unlock()
	if draining {
		return ErrDraining
	}
	c.Tenant = t.name // one copy of the name for all
	c.index = len(t.conns)
	t.conns = append(t.conns, c)
	p := t.peers[c.Profile]
	if p == nil {
		p = &peer{ref: c.Profile}
		t.peers[c.Profile] = p
		for room := range t.rooms.Of(c.Profile) {
			link(t.present, room, p)
		}
	}
	c.Profile = p.ref
	p.conns = append(p.conns, c)
	t.watchLocked(c, watch)

	var d sse.Delivery
	d.Send(c.Stream, h.ready(c, t.log.Head()))
	d.Flush()
	return nil
}

// ready is the first frame of every stream: its id is the place before the
// first event to come, so that a client cut before that resumes there.
func (h *Hub) ready(c *Connection, head Cursor) *sse.Frame {
	cursor := head.String()
	data := make([]byte, 0, 320) // by hand: it is part of what a connect costs
	data = append(append(data, `{"connectionId":"`...), c.ID.String()...)
	data = append(append(data, `","tenantId":"`...), c.Tenant...)
	data = c.Profile.AppendJSON(append(data, `","profile":`...))
	data = AppendTime(append(data, `,"connectedAt":"`...), c.ConnectedAt)
	data = append(append(data, `","resume":"fresh","cursor":"`...), cursor...)
	data = append(data, `"}`...)
	b := sse.AppendRetry(make([]byte, 0, len(data)+len(cursor)+64), h.retry)
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
	switch {
	case errors.Is(why, sse.ErrSlow):
		h.logger.Warn("stream cut", "reason", string(CloseSlow), "tenant", c.Tenant, "connection", c.ID)
	case errors.Is(why, sse.ErrNoisy):
		h.logger.Warn("stream cut", "reason", "noisy", "tenant", c.Tenant, "connection", c.ID)
	default:
		h.logger.Debug("stream ended", "tenant", c.Tenant, "connection", c.ID, "by", cmp.Or(why, errHub))
	}
	h.remove(c)
}

var errHub = errors.New("the hub")

// remove takes c out of the hub; only the first call does anything.
func (h *Hub) remove(c *Connection) {
	t := h.lock(c.Tenant, false)
	if t == nil {
		return
	}
	first := !c.removed
	if first {
		t.removeLocked(c)
		h.byIDMu.Lock()
		delete(h.byID, c.ID)
		h.byIDMu.Unlock()
	}
	last := len(t.conns) == 0
	t.mu.Unlock()
	if first {
		h.observer.Disconnected(c)
	}
	if last {
		h.forget(c.Tenant, time.Now())
	}
}

// Kick closes a connection: it is gone from the hub when Kick returns.
func (h *Hub) Kick(c *Connection, reason CloseReason) {
	c.Stream.Close(h.Closing(reason))
	h.remove(c)
}

// Drain refuses new streams and ends all that are open.
func (h *Hub) Drain() {
	h.byIDMu.Lock()
	h.draining = true
	open := slices.Collect(maps.Values(h.byID))
	h.byIDMu.Unlock()
	for _, c := range open {
		c.Stream.Close(h.Closing(CloseDrain))
	}
}

// Connection finds an open connection, whichever tenant's; nil when there is none.
func (h *Hub) Connection(id string) *Connection {
	key, err := uuid.Parse(id)
	if err != nil || len(id) != 36 {
		return nil
	}
	h.byIDMu.RLock()
	defer h.byIDMu.RUnlock()
	return h.byID[key]
}

// Connections are a tenant's, or one profile's, in the order of their ids.
func (h *Hub) Connections(tenant string, of *ProfileRef) []*Connection {
	t := h.lock(tenant, false)
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
	t := h.lock(c.Tenant, false)
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

// resolve makes sure of a room's membership before anything is stored or locked.
func (h *Hub) resolve(ctx context.Context, tenant string, room Room) (*Roster, error) {
	roster, err := h.resolver.Resolve(ctx, tenant, room)
	if err != nil {
		h.logger.Warn("membership", "tenant", tenant, "room", room.ID, "err", err)
		return nil, errors.Join(ErrMembership, err)
	}
	return roster, nil
}

// SetMembers replaces a room's members. ErrExternal where the hub does not own
// membership; so for AddMember and RemoveMember.
func (h *Hub) SetMembers(name string, room Room, members []ProfileRef) error {
	return h.change(name, len(members) > 0, func(t *tenant) { t.setMembersLocked(room, members) })
}

// AddMember adds one member.
func (h *Hub) AddMember(name string, room Room, p ProfileRef) error {
	return h.change(name, true, func(t *tenant) {
		if t.rooms.Add(room, p) {
			t.joinedLocked(room, p)
		}
	})
}

// RemoveMember removes one member.
func (h *Hub) RemoveMember(name string, room Room, p ProfileRef) error {
	return h.change(name, false, func(t *tenant) {
		if t.rooms.Remove(room, p) {
			t.leftLocked(room, p)
		}
	})
}

func (h *Hub) change(name string, create bool, do func(*tenant)) error {
	if _, own := h.resolver.(OwnMembership); !own {
		return ErrExternal
	}
	t := h.lock(name, create)
	if t == nil {
		return nil
	}
	do(t)
	empty := t.rooms.Empty()
	t.mu.Unlock()
	if empty {
		h.forget(name, time.Now())
	}
	return nil
}

// Members are a room's, sorted; ErrMembership when nobody can say.
func (h *Hub) Members(ctx context.Context, tenant string, room Room) ([]ProfileRef, error) {
	roster, err := h.resolve(ctx, tenant, room)
	if err != nil {
		return nil, err
	}
	var list []ProfileRef
	if roster != nil {
		list = slices.Clone(roster.Members)
	} else if t := h.lock(tenant, false); t != nil {
		list = slices.Collect(t.rooms.Members(room))
		t.mu.Unlock()
	}
	slices.SortFunc(list, compareProfiles)
	return list, nil
}

func compareProfiles(a, b ProfileRef) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
}

// Member says whether p belongs to a room, and how many do.
func (h *Hub) Member(ctx context.Context, tenant string, room Room, p ProfileRef) (member bool, size int, err error) {
	roster, err := h.resolve(ctx, tenant, room)
	if err != nil {
		return false, 0, err
	}
	if roster != nil {
		return slices.Contains(roster.Members, p), len(roster.Members), nil
	}
	t := h.lock(tenant, false)
	if t == nil {
		return false, 0, nil
	}
	defer t.mu.Unlock()
	return t.rooms.Has(room, p), t.rooms.Len(room), nil
}

// Share says of each profile whether it has a room in common with viewer.
func (h *Hub) Share(tenant string, viewer ProfileRef, profiles []ProfileRef) []bool {
	share := make([]bool, len(profiles))
	if t := h.lock(tenant, false); t != nil {
		defer t.mu.Unlock()
		for i, p := range profiles {
			share[i] = t.rooms.Share(viewer, p)
		}
	}
	return share
}

// Publish accepts events, all or none, and hands them to the streams of their
// targets: those of one tenant take consecutive places, in the order given. It
// waits for a membership service, if there is one, and for no client. Ids and
// timestamps are filled in. ErrMembership: nothing was stored.
func (h *Hub) Publish(ctx context.Context, events []*Event) ([]Receipt, error) {
	now := time.Now()
	parcels := make([]*parcel, len(events))
	for i, e := range events {
		if e.ID == "" {
			id, err := uuid.NewV7()
			if err != nil {
				return nil, err
			}
			e.ID = id.String()
		}
		e.Timestamp = now
		parcels[i] = pack(e)
		if room, ok := e.Target.Room(); ok {
			roster, err := h.resolve(ctx, e.TenantID, room)
			if err != nil {
				return nil, err
			}
			parcels[i].roster = roster
		}
		if e.Target.Kind == KindConnection {
			parcels[i].only = h.Connection(e.Target.ConnectionID)
		}
	}
	receipts := make([]Receipt, len(events))
	for i := range parcels {
		if receipts[i].ID == "" {
			h.publishTenant(events[i].TenantID, parcels[i:], receipts[i:], now)
		}
	}
	return receipts, nil
}

// publishTenant publishes those of the parcels that are the tenant's.
func (h *Hub) publishTenant(name string, parcels []*parcel, receipts []Receipt, now time.Time) {
	stored := 0
	for _, p := range parcels {
		if p.event.TenantID == name && p.event.Stored() {
			stored++
		}
	}
	var d sse.Delivery
	t := h.lock(name, stored > 0)
	var place Cursor
	if stored > 0 {
		place = t.log.Append(stored, now)
	}
	for i, p := range parcels {
		if p.event.TenantID != name {
			continue
		}
		if p.event.Stored() {
			p.cursor = place.String()
			place = place.Plus(1)
		}
		n := 0
		if t != nil {
			n = t.deliverLocked(&d, p, now)
		}
		receipts[i] = Receipt{ID: p.event.ID, Timestamp: p.event.Timestamp, Cursor: p.cursor, Connections: n}
	}
	if t != nil {
		t.mu.Unlock()
	}
	d.Flush()
}

// Notify tells a tenant's streams of changes: each stream with a watch list of
// those on its list, and every other stream of all of them in one write, or of
// the digest alone when there is one. With shared set, only streams of profiles
// that have a room in common with who changed, or are who changed, are told.
func (h *Hub) Notify(name string, notices []Notice, digest *Event, shared bool) {
	t := h.lock(name, false)
	if t == nil {
		return
	}
	var d sse.Delivery
	parcels := make([]*parcel, len(notices))
	for i, n := range notices {
		parcels[i] = pack(n.Event)
		for c := range t.watchers[n.About] {
			if !shared || c.Profile == n.About || t.rooms.Share(c.Profile, n.About) {
				sendWanted(&d, c, parcels[i])
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
				whole.send(&d, c)
			}
		}
	} else {
		t.notifySharedLocked(&d, notices, all, digest != nil)
	}
	t.mu.Unlock()
	d.Flush()
}
