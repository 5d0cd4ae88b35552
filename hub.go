package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
	"realtimehub/internal/room"
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
	log    history.Log
	logger *slog.Logger
	quotas *allowance.Pools

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
	Log          history.Log
	Rooms        room.Shared // of all hubs of a cluster; nil: this hub's own
	Resolver     room.Resolver
	Most         MostConnections
	Memberships  int              // that a tenant may have; 0: any number
	Quotas       *allowance.Pools // nil: nothing is bounded
	Memory       overload.Use     // nil: never overloaded
	Logger       *slog.Logger
}

// NewHub makes a hub; Observe comes before its first connection.
func NewHub(cfg HubConfig) *Hub {
	if cfg.Quotas == nil {
		cfg.Quotas = &allowance.Pools{}
	}
	h := &Hub{log: cfg.Log, logger: cfg.Logger, count: newHubCounts(), quotas: cfg.Quotas}
	h.tenants = newTenants(cfg.Log, cfg.Rooms, cfg.Quotas)
	h.members = newMembers(h.tenants, cfg.Rooms, cfg.Resolver, cfg.Memberships, cfg.Logger)
	h.streams = &streams{
		frames: frames{cfg.Retry, cfg.Heartbeat}, directory: directory{most: cfg.Most},
		tenants: h.tenants, members: h.members, log: cfg.Log, logger: cfg.Logger, count: h.count,
		inline:  h.ownsMembership() && (cfg.StreamBuffer == 0 || cfg.StreamBuffer >= 4*chunkBytes), // else it waits for the service
		drained: make(chan struct{}),
	}
	kept := func() int64 { return cfg.Log.Held() + cfg.Quotas.State.Total() + cfg.Quotas.IDs.Total() }
	h.streams.start(engine.Config{Buffer: cfg.StreamBuffer, Budget: cfg.MemoryBudget, Heartbeat: cfg.Heartbeat, Plain: cfg.Plain}, cfg.Memory, kept)
	h.dispatcher = &dispatcher{h.tenants, h.members, h.streams, h.count, cfg.Logger}
	h.log.Follow(h.dispatcher)
	return h
}

// Overloaded says that hardly any memory is left, and nothing more is taken.
func (h *Hub) Overloaded() bool { return h.overload.Overloaded() }

// WatchMemory looks at the memory in use until ctx ends.
func (h *Hub) WatchMemory(ctx context.Context) { h.overload.WatchMemory(ctx) }

// ShareWith makes the hub one of a cluster, before its first connection.
func (h *Hub) ShareWith(s Sharing, node [4]byte) {
	h.tenants.sharing, h.streams.node = s, node
	h.streams.openAtOnce(512) // each may wait for the broker
}

// Ready says why nothing can be stored now, nil when it can.
func (h *Hub) Ready() error { return h.log.Ready() }

// Waits says whether Publish may wait for others: a broker, or the membership service.
func (h *Hub) Waits() bool { return h.tenants.inCluster() || !h.ownsMembership() }

// Publish accepts events, all or none, and hands them to the streams of their
// targets: those of one tenant take consecutive places, in the order given. It
// waits for a membership service, if there is one, and for no client. Ids and
// timestamps are filled in. ErrMembership, ErrNotStored: nothing was stored; an
// *UnconfirmedError: it may have been.
func (h *Hub) Publish(ctx context.Context, events []*event.Event) ([]Receipt, error) {
	now := time.Now()
	entries := make([]*history.Entry, len(events))
	for i, e := range events {
		entries[i] = &history.Entry{Event: e, Chosen: e.ID != "", Here: true}
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
	if err := h.log.Append(ctx, entries); errors.Is(err, history.ErrUnconfirmed) {
		ids := make([]string, len(events))
		for i, e := range events {
			ids[i] = e.ID
		}
		h.count.unconfirmed.Add(int64(len(events)))
		return nil, history.NewUnconfirmed(ids, err)
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
			h.count.accepted.Add(e.Event.Target.Kind, 1)
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

// roomsTime is how long an event waits until this hub knows of its tenant's rooms.
const roomsTime = 300 * time.Millisecond

// knowRooms has the rooms known that events are for, so that what is known of them goes
// with the events to hubs that know less. Without it those ask.
func (h *Hub) knowRooms(ctx context.Context, events []*event.Event) {
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
func (h *Hub) countElsewhere(ctx context.Context, e *event.Event) (connections, members int) {
	if !h.sureNow() {
		return 0, -1
	}
	t, err := h.know(ctx, e.TenantID)
	if err != nil {
		return 0, -1 // it is stored, and this is only told
	}
	defer t.mu.Unlock()
	room, _ := e.Target.Room()
	connections = h.sharing.Count(e, func(p event.Profile) bool { return t.rooms.Has(room, p) })
	return connections, t.rooms.Len(room)
}

// History reads a piece of a tenant's events after a cursor, or from the oldest on when
// that is empty: limit at most. gap says that some before them are missing for good.
func (h *Hub) History(ctx context.Context, tenant, after string, limit int) (page history.Page, gap bool, err error) {
	from, err := h.log.Find(ctx, tenant, after, nil)
	for {
		lost := errors.Is(err, history.ErrExpired) || errors.Is(err, history.ErrUnknownCursor)
		if err != nil && !lost {
			return history.Page{}, false, err
		}
		gap = gap || lost
		page, err = h.log.Read(ctx, tenant, history.Query{After: from.Seq, Limit: limit, Bytes: historyBytes})
		if err == nil {
			return page, gap, nil
		}
		from = page.Next
	}
}

// historyBytes bounds one piece of History.
const historyBytes = 64 << 10

// Stats looks at everything; for a broker's answer it may wait a second.
func (h *Hub) Stats() HubStats {
	c, written, log := h.count, h.engine.Stats(), h.log.Stats()
	streams, draining := h.directory.now()
	dropped := map[DropReason]int64{
		DropBehind: c.behind.Load(), DropBroker: int64(log.Unsent), DropUnreadable: int64(log.Unread),
	}
	for why, n := range written.Dropped {
		dropped[DropReason(engine.Drop(why).String())] = n
	}
	gaps := c.gaps.Now()
	gaps[GapSlow] += written.Shed
	return HubStats{
		Streams: streams, Ready: !draining && h.Ready() == nil,
		Connects: c.connects.Now(), Closes: c.closes.Now(), Refused: c.refused.Now(),
		Accepted: c.accepted.Now(), Duplicates: c.duplicates.Load(), Unconfirmed: c.unconfirmed.Load(), Unanswered: c.unanswered.Load(),
		Dropped: dropped, Gaps: gaps, Replayed: c.replayed.Now(), Engine: written, Log: log,
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
		var oldest history.Cursor
		err := errors.ErrUnsupported
		if remembers && answers {
			oldest, err = h.log.Find(context.Background(), name, "", nil)
			answers = err == nil
		}
		if t := h.find(name); t != nil {
			for in, r := range t.resolved {
				// As long as history has events for the room, who resumes must get them.
				if now.Sub(r.used) > room.ResolvedTTL && err == nil && r.at < oldest.Seq {
					t.unresolveLocked(in)
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
