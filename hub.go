package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/sse"
)

// Hub accepts events, gives them their order and hands them to streams.
//
// Lock order: tenants' → (a stream's, directory.mu, expiry.mu), which are leaves.
type Hub struct {
	// Static after the start.
	*tenants
	*members
	*streams
	*dispatcher
	log    Log
	logger *slog.Logger
	quotas *Quotas

	count *hubCounts // what happens; guards itself

	lostIDs int                  // owned by Sweep
	cutAll  int64                // owned by Sweep
	dropped map[DropReason]int64 // owned by Sweep: what was dropped when it last looked
}

// HubConfig is what a hub needs to know.
type HubConfig struct {
	Retry        time.Duration // how long clients wait before they reconnect
	Heartbeat    time.Duration
	StreamBuffer int   // bytes
	MemoryBudget int64 // bytes that all streams together may owe
	Plain        bool  // every stream is written by its handler, as on systems without epoll
	Log          Log
	Rooms        SharedRooms // of all hubs of a cluster; nil: this hub's own
	Resolver     Resolver
	Most         MostConnections
	Memberships  int       // that a tenant may have; 0: any number
	Quotas       *Quotas   // nil: nothing is bounded
	Memory       MemoryUse // nil: never overloaded
	Logger       *slog.Logger
}

// NewHub makes a hub; Observe comes before its first connection.
func NewHub(cfg HubConfig) *Hub {
	if cfg.Quotas == nil {
		cfg.Quotas = &Quotas{}
	}
	h := &Hub{log: cfg.Log, logger: cfg.Logger, count: newHubCounts(), quotas: cfg.Quotas}
	h.tenants = newTenants(cfg.Log, cfg.Rooms, cfg.Quotas)
	h.members = newMembers(h.tenants, cfg.Rooms, cfg.Resolver, cfg.Memberships, cfg.Logger)
	h.streams = &streams{
		frames: frames{cfg.Retry, cfg.Heartbeat}, directory: directory{most: cfg.Most},
		tenants: h.tenants, members: h.members, log: cfg.Log, logger: cfg.Logger, count: h.count,
		inline:  h.ownsMembership() && (cfg.StreamBuffer == 0 || cfg.StreamBuffer >= 4*chunkBytes), // else it waits for the service
		drained: make(chan struct{}), overload: overload{use: cfg.Memory, kept: func() int64 {
			return cfg.Log.Held() + cfg.Quotas.State.Total() + cfg.Quotas.IDs.Total()
		}, logger: cfg.Logger},
	}
	h.streams.start(sse.Config{Buffer: cfg.StreamBuffer, Budget: cfg.MemoryBudget, Heartbeat: cfg.Heartbeat, Plain: cfg.Plain})
	h.dispatcher = &dispatcher{h.tenants, h.members, h.streams, h.count, cfg.Logger}
	h.log.Follow(h.dispatcher)
	return h
}

// ShareWith makes the hub one of a cluster, before its first connection.
func (h *Hub) ShareWith(s Sharing, node [4]byte) {
	h.tenants.sharing, h.streams.node = s, node
	h.streams.openAtOnce(512) // each may wait for the broker
}

// Ready says why nothing can be stored now, nil when it can.
func (h *Hub) Ready() error { return h.log.Ready() }

// Waits says whether Publish may wait for others: a broker, or the membership service.
func (h *Hub) Waits() bool { return h.tenants.inCluster() || !h.ownsMembership() }

// Receipt answers one published event. Cursor is empty where nothing is stored; Members
// is how many the event's room has, and -1 where it is for none, where that is not
// known, and of a duplicate.
type Receipt struct {
	ID          string
	Timestamp   time.Time
	Cursor      string
	Connections int
	Members     int
	Duplicate   bool
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
	}
	sizes, err := h.settle(ctx, false, events...)
	if err != nil {
		return nil, err
	}
	h.knowRooms(ctx, events)
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
		receipts[i] = Receipt{ID: e.Event.ID, Timestamp: now, Connections: int(e.Reached), Members: -1, Duplicate: e.Duplicate}
		if e.Duplicate {
			receipts[i].Timestamp = e.FirstAt
			h.count.duplicates.Add(1)
		} else {
			h.count.accepted.add(e.Event.Target.Kind, 1)
		}
		if e.Cursor.Seq > 0 {
			receipts[i].Cursor = e.Cursor.String()
		}
		if e.Duplicate {
			continue
		}
		members := int(e.Members)
		if h.sharing != nil {
			var elsewhere int
			elsewhere, members = h.countElsewhere(ctx, e.Event)
			receipts[i].Connections += elsewhere
		}
		if sizes != nil {
			members = sizes[i]
		}
		if _, ok := e.Event.Target.Room(); ok {
			receipts[i].Members = members
		}
	}
	return receipts, nil
}

// UnconfirmedError is ErrUnconfirmed of events with these ids, in their order.
type UnconfirmedError struct {
	IDs []string
	err error
}

func (e *UnconfirmedError) Error() string { return e.err.Error() }
func (e *UnconfirmedError) Unwrap() error { return e.err }

// roomsTime is how long an event waits until this hub knows of its tenant's rooms.
const roomsTime = 300 * time.Millisecond

// knowRooms has the rooms known that events are for, so that what is known of them goes
// with the events to hubs that know less. Without it those ask.
func (h *Hub) knowRooms(ctx context.Context, events []*Event) {
	if h.rooms == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, roomsTime)
	defer cancel()
	known := ""
	for _, e := range events {
		if _, ok := e.Target.Room(); ok && e.TenantID != known {
			if t, err := h.know(ctx, e.TenantID); err == nil {
				t.mu.Unlock()
			}
			known = e.TenantID
		}
	}
}

// countElsewhere is how many of an event's connections other hubs hold, and how many
// members its room has on all of them: -1 where that is not known.
func (h *Hub) countElsewhere(ctx context.Context, e *Event) (connections, members int) {
	if !h.sureNow() {
		return 0, -1
	}
	t, err := h.know(ctx, e.TenantID)
	if err != nil {
		return 0, -1 // it is stored, and this is only told
	}
	defer t.mu.Unlock()
	room, _ := e.Target.Room()
	connections = h.sharing.Count(e, func(p ProfileRef) bool { return t.rooms.Has(room, p) })
	return connections, t.rooms.Len(room)
}

// History reads a piece of a tenant's events after a cursor, or from the oldest on when
// that is empty: limit at most. gap says that some before them are missing for good.
func (h *Hub) History(ctx context.Context, tenant, after string, limit int) (page Page, gap bool, err error) {
	from, err := h.log.Find(ctx, tenant, after, nil)
	for {
		lost := errors.Is(err, ErrExpired) || errors.Is(err, ErrUnknownCursor)
		if err != nil && !lost {
			return Page{}, false, err
		}
		gap = gap || lost
		page, err = h.log.Read(ctx, tenant, Query{After: from.Seq, Limit: limit, Bytes: historyBytes})
		if err == nil && page.Next.Epoch == from.Epoch {
			return page, gap, nil
		}
		if from = page.Next; err == nil { // it has begun anew meanwhile
			from, err = h.log.Find(ctx, tenant, after, nil)
		}
	}
}

// historyBytes bounds one piece of History.
const historyBytes = 64 << 10

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
	Unanswered  int64                // questions to other hubs
	Dropped     map[DropReason]int64 // events, by stream
	Gaps        map[GapReason]int64
	Replayed    Histogram // events, by resume
	Engine      sse.Stats
	Log         LogStats
	Overload    OverloadStats
}

// Stats looks at everything; for a broker's answer it may wait a second.
func (h *Hub) Stats() HubStats {
	c, engine, log := h.count, h.engine.Stats(), h.log.Stats()
	streams, draining := h.directory.now()
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
		Accepted: c.accepted.now(), Duplicates: c.duplicates.Load(), Unconfirmed: c.unconfirmed.Load(), Unanswered: c.unanswered.Load(),
		Dropped: dropped, Gaps: gaps, Replayed: c.replayed.now(), Engine: engine, Log: log,
		Overload: h.overload.Stats(),
	}
}

// Sweep forgets what nobody needs any more. Called now and then.
func (h *Hub) Sweep(now time.Time) {
	answers := true // the log; who does not is asked again the next time, and not by each tenant
	for _, name := range h.names() {
		t := h.find(name)
		if t == nil {
			continue
		}
		remembers := t.rooms.Remembers() || len(t.resolved) > 0
		t.mu.Unlock()
		var oldest Cursor
		err := errors.ErrUnsupported
		if remembers && answers {
			oldest, err = h.log.Find(context.Background(), name, "", nil)
			answers = err == nil
		}
		if t := h.find(name); t != nil {
			for room, r := range t.resolved {
				// As long as history has events for the room, who resumes must get them.
				if now.Sub(r.used) > resolvedTTL && err == nil && r.at < oldest.Seq {
					t.unresolveLocked(room)
				}
			}
			if err == nil {
				t.rooms.Prune(oldest.Seq)
			}
			t.settleLocked()
			t.mu.Unlock()
		}
		h.forget(name)
	}
	h.log.Sweep(now)
	stats := h.Stats()
	if lost := stats.Log.LostIDs; lost > h.lostIDs {
		h.logger.Warn("ids forgotten before their window was over", "lost", lost)
		h.lostIDs = lost
	}
	if cut := stats.Log.CutAll; cut > h.cutAll {
		h.logger.Warn("the largest histories have lost their oldest events, since all together have their bytes", "events", cut-h.cutAll, "limit", stats.Log.Limit)
		h.cutAll = cut
	}
	for reason, n := range stats.Dropped {
		if reason.forGood() && n > h.dropped[reason] {
			h.logger.Warn("events dropped", "reason", string(reason), "events", n-h.dropped[reason])
		}
	}
	h.dropped = stats.Dropped
}
