package main

import (
	"log/slog"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/engine"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
	"realtimehub/internal/room"
)

// DeliveryConfig is what delivery needs to know.
type DeliveryConfig struct {
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
	Quotas       *allowance.Pools // where it is counted what is kept
	Memory       overload.Use     // nil: never overloaded
	Logger       *slog.Logger
}

// Parts are what delivery is made of.
type Parts struct {
	Tenants    *tenants
	Members    *members
	Streams    *streams
	Dispatcher *dispatcher
	Counts     *Counts
}

// NewDelivery makes them, and has the log tell the dispatcher.
func NewDelivery(cfg DeliveryConfig) Parts {
	counts := newCounts()
	tenants := newTenants(cfg.Log, cfg.Rooms, cfg.Quotas)
	members := newMembers(tenants, cfg.Rooms, cfg.Resolver, cfg.Memberships, cfg.Logger)
	streams := &streams{
		words: frames{cfg.Retry, cfg.Heartbeat}, directory: directory{most: cfg.Most},
		tenants: tenants, members: members, log: cfg.Log, logger: cfg.Logger, count: counts,
		inline:  members.ownsMembership() && (cfg.StreamBuffer == 0 || cfg.StreamBuffer >= 4*chunkBytes), // else it waits for the service
		drained: make(chan struct{}),
	}
	kept := func() int64 { return cfg.Log.Held() + cfg.Quotas.State.Total() + cfg.Quotas.IDs.Total() }
	streams.start(engine.Config{Buffer: cfg.StreamBuffer, Budget: cfg.MemoryBudget, Heartbeat: cfg.Heartbeat, Plain: cfg.Plain}, cfg.Memory, kept)
	d := Parts{tenants, members, streams, &dispatcher{tenants, members, streams, counts, cfg.Logger}, counts}
	cfg.Log.Follow(d.Dispatcher)
	return d
}
