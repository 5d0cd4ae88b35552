package delivery

import (
	"log/slog"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/engine"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
	"realtimehub/internal/room"
)

// Config is what delivery needs to know.
type Config struct {
	Retry        time.Duration // how long clients wait before they reconnect
	Heartbeat    time.Duration
	StreamBuffer int   // bytes
	MemoryBudget int64 // bytes that all streams together may owe
	Plain        bool  // every stream is written by its handler, as on systems without epoll
	Log          history.Log
	Rooms        room.Shared // of all hubs of a cluster; nil: this hub's own
	Resolver     room.Resolver
	Most         Limits
	Memberships  int              // that a tenant may have; 0: any number
	Quotas       *allowance.Pools // where it is counted what is kept
	Memory       overload.Use     // nil: never overloaded
	Logger       *slog.Logger
	Node         *Node         // nil: the hub is alone
	Duties       Duties        // told of what is acknowledged; nil: nobody is
	Reporter     Reporter      // told of connections; nil: nobody is
	AckTimeout   time.Duration // a stream that owes an acknowledgement for so long ends; 0: it does not
}

// Node is a hub of a cluster.
type Node struct {
	Mark [4]byte      // in the ids of its connections, so that any hub knows where one is
	Away func() int64 // counts how often the hub was cut off from the others
}

// Parts are what delivery is made of.
type Parts struct {
	Tenants    *Tenants
	Members    *Members
	Streams    *Streams
	Dispatcher *Dispatcher
	Counts     *Counts
}

// New makes them, and has the log tell the dispatcher.
func New(cfg Config) Parts {
	counts := newCounts()
	tenants := newTenants(cfg.Log, cfg.Rooms, cfg.Quotas)
	members := newMembers(tenants, cfg)
	streams := &Streams{
		node: cfg.Node, retry: cfg.Retry, heartbeat: cfg.Heartbeat, open: directory{most: cfg.Most, by: noTransports()},
		tenants: tenants, members: members, log: cfg.Log, logger: cfg.Logger, count: counts,
		inline:  members.OwnsMembership() && (cfg.StreamBuffer == 0 || cfg.StreamBuffer >= 4*chunkBytes), // else it waits for the service
		drained: make(chan struct{}), reporter: cfg.Reporter, duties: cfg.Duties,
	}
	streams.expiry = newExpiry(streams.expiring, streams.expired)
	streams.timeouts = newTimeouts(cfg.AckTimeout, streams.unacked)
	kept := func() int64 { return cfg.Log.Held() + cfg.Quotas.State.Total() + cfg.Quotas.IDs.Total() }
	streams.start(engine.Config{Buffer: cfg.StreamBuffer, Budget: cfg.MemoryBudget, Heartbeat: cfg.Heartbeat, Plain: cfg.Plain}, cfg.Memory, kept)
	d := Parts{tenants, members, streams, &Dispatcher{tenants, members, streams, counts, cfg.Logger}, counts}
	cfg.Log.Follow(d.Dispatcher)
	return d
}
