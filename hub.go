package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/webhook"
)

// Hub accepts events, gives them their order and hands them to streams. It has no lock: those
// of its parts, and their order, are in the documentation of their packages.
type Hub struct {
	// Static after the start.
	tenants    *delivery.Tenants
	members    *delivery.Members
	streams    *delivery.Streams
	dispatcher *delivery.Dispatcher
	presence   *Presence
	cluster    *cluster.Cluster
	log        history.Log
	outbox     outbox.Box      // what services are told
	webhook    *webhook.Sender // of the outbox; nil: services ask. Tell has it
	logger     *slog.Logger
	quotas     *allowance.Pools

	count *delivery.Counts // what happens; guards itself

	lostIDs   int                           // owned by Sweep
	cutAll    int64                         // owned by Sweep
	cutOutbox int64                         // owned by Sweep
	dropped   map[delivery.DropReason]int64 // owned by Sweep: what was dropped when it last looked
}

// HubConfig is what a hub needs to know of its delivery.
type HubConfig = delivery.Config

// NewHub makes a hub with its presence, and joins it to others; nil peers leave it alone.
func NewHub(cfg HubConfig, presence PresenceConfig, peers cluster.Peers) *Hub {
	if cfg.Quotas == nil {
		cfg.Quotas = &allowance.Pools{}
	}
	if peers != nil {
		cfg.Node = &delivery.Node{Mark: peers.Node(), Away: peers.Away}
	}
	d := delivery.New(cfg)
	h := &Hub{
		tenants: d.Tenants, members: d.Members, streams: d.Streams, dispatcher: d.Dispatcher, count: d.Counts,
		log: cfg.Log, outbox: newOutbox(cfg.Quotas), logger: cfg.Logger, quotas: cfg.Quotas,
	}
	h.presence = newPresence(d, cfg.Quotas, presence, peers)
	h.cluster = cluster.New(cluster.Config{
		Delivery: d, Pools: cfg.Quotas, Presence: h.presence, Typists: h.presence.typists,
		Peers: peers, Back: 2 * cfg.Retry,
	})
	return h
}

// Overloaded says that hardly any memory is left, and nothing more is taken.
func (h *Hub) Overloaded() bool { return h.streams.Overloaded() }

// WatchMemory looks at the memory in use until ctx ends.
func (h *Hub) WatchMemory(ctx context.Context) { h.streams.WatchMemory(ctx) }

// Ready says why nothing can be stored now, nil when it can.
func (h *Hub) Ready() error { return h.log.Ready() }

// Waits says whether Publish may wait for others: a broker, or the membership service.
func (h *Hub) Waits() bool { return h.tenants.InCluster() || !h.members.OwnsMembership() }

// Publish accepts events, all or none, and hands them to the streams of their
// targets: those of one tenant take consecutive places, in the order given. It
// waits for a membership service, if there is one, and for no client. Ids and
// timestamps are filled in. ErrMembership, ErrNotStored: nothing was stored; an
// *UnconfirmedError: it may have been.
func (h *Hub) Publish(ctx context.Context, events []*event.Event) ([]delivery.Receipt, error) {
	now := time.Now()
	entries, err := seal(events, now)
	if err != nil {
		return nil, err
	}
	sizes, err := h.members.ResolveRooms(ctx, false, events...)
	if err != nil {
		return nil, err
	}
	h.tenants.EnsureRooms(ctx, events)
	if err := h.append(ctx, entries); err != nil {
		return nil, err
	}
	debug := h.logger.Enabled(ctx, slog.LevelDebug)
	receipts := make([]delivery.Receipt, len(entries))
	for i, e := range entries {
		if debug {
			h.logger.Debug("published", "tenant", e.Event.TenantID, "type", e.Event.Type, "id", e.Event.ID,
				"traceparent", e.Event.TraceParent, "duplicate", e.Duplicate)
		}
		receipts[i] = h.receipt(ctx, e, now)
		if _, ok := e.Event.Target.Room(); ok && sizes != nil && !e.Duplicate {
			receipts[i].Members = sizes[i]
		}
	}
	return receipts, nil
}

// seal fills in ids and timestamps, and encodes each event's envelope.
func seal(events []*event.Event, now time.Time) ([]*history.Entry, error) {
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
	return entries, nil
}

// append has the log take entries. An error that leaves open whether it did names their ids.
func (h *Hub) append(ctx context.Context, entries []*history.Entry) error {
	err := h.log.Append(ctx, entries)
	if !errors.Is(err, history.ErrUnconfirmed) {
		return err
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Event.ID
	}
	h.count.Unconfirmed(len(entries))
	return history.NewUnconfirmed(ids, err)
}

// receipt counts an entry that the log has taken, and says what its publisher is told of it.
func (h *Hub) receipt(ctx context.Context, e *history.Entry, now time.Time) delivery.Receipt {
	r := delivery.Receipt{ID: e.Event.ID, Timestamp: now, Connections: int(e.Reached), Members: -1, Duplicate: e.Duplicate}
	if e.Cursor.Seq > 0 {
		r.Cursor = e.Cursor.String()
	}
	if e.Duplicate {
		r.Timestamp = e.FirstAt
		h.count.Duplicate()
		return r
	}
	h.count.Accepted(e.Event.Target.Kind)
	members := int(e.Members)
	if h.tenants.Shared() {
		var remote int
		remote, members = h.tenants.CountRemote(ctx, e.Event)
		r.Connections += remote
	}
	if _, ok := e.Event.Target.Room(); ok {
		r.Members = members
	}
	return r
}

// Stats looks at everything; for a broker's answer it may wait a second.
func (h *Hub) Stats() delivery.Stats {
	stats := h.streams.Stats()
	stats.Ready = stats.Ready && h.Ready() == nil
	return stats
}
