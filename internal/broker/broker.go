package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/duties"
	"realtimehub/internal/broker/outbox"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/cluster"
	"realtimehub/internal/duty"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// Config is how hubs that share a NATS server or cluster are one.
type Config struct {
	URL      string       // one, or several with commas
	Inside   nats.Option  // connects to a server in this process, in place of URL; nil: there is none
	Alone    bool         // no other hub can be there: none is looked for
	Whole    func() error // says why the server inside has not all that it keeps with others; nil: it has
	Torn     bool         // some of what was acknowledged may be lost: whoever resumes is told of a gap
	Creds    string       // path of a credentials file; empty: none
	Prefix   string       // of all subjects and streams
	Replicas int
	Limits   history.Limits // Bytes is of a tenant, also at the broker; Total of what this hub keeps near
	Disk     int64          // bytes of all tenants together at the broker; 0: no limit
	// Prepare: the sink prepares for what other hubs append.
	Prepare bool
	Logger  *slog.Logger
}

// Broker is one hub's side of what hubs share.
type Broker struct {
	nc        *nats.Conn
	connected atomic.Bool
	watch     *watch
	logger    *slog.Logger
	log       *sharedLog
	rooms     *sharedRooms
	peers     *otherHubs
	duties    *duties.Keeper
	settling  *settling // nil: there are no others
	outbox    *outbox.Box
	alone     bool // it has not joined them
}

// How the connection is kept: a broker that is stopped is noticed within 2 s, or 3 s where what
// is sent has filled the network's buffers (sendTime); and nothing is sent later that was
// answered as failed.
const (
	pingEvery = 700 * time.Millisecond
	mostPings = 2 // that are not answered
)

// Connect connects, and makes what the broker keeps; it waits as long as ctx
// allows.
func Connect(ctx context.Context, cfg Config) (*Broker, error) {
	peers := newOtherHubs(cfg.Logger)
	access := []nats.Option{nats.Name("realtimehub " + peers.name())}
	if cfg.Creds != "" {
		access = append(access, nats.UserCredentials(cfg.Creds))
	}
	if cfg.Inside != nil {
		access = append(access, cfg.Inside)
	}
	w := newWatch(access, cfg.Logger)
	log := newSharedLog(cfg, w.faults)
	ask := peers.AskAll
	if cfg.Alone {
		ask = func(context.Context, cluster.Call) ([]cluster.Answer, []string) { return nil, nil }
	}
	b := &Broker{watch: w, logger: cfg.Logger, log: log, rooms: newSharedRooms(log, ask, cfg.Logger), peers: peers, alone: cfg.Alone}
	var err error
	if b.nc, err = nats.Connect(cfg.URL, b.options(cfg.URL)...); err != nil {
		return nil, err
	}
	if err = b.reach(ctx); err == nil {
		opened := make(chan struct{})
		go b.watch.opening(b.nc, opened)
		err = b.open(ctx, cfg)
		close(opened)
	}
	if err != nil {
		b.watch.end()
		b.nc.Close()
		return nil, err
	}
	b.watch.begin(b.nc, b.log.journal)
	return b, nil
}

// options are for the connection.
func (b *Broker) options(url string) []nats.Option {
	return append(b.watch.options(url),
		nats.NoEcho(), nats.RetryOnFailedConnect(true),
		nats.ReconnectBufSize(-1), nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(mostPings),
		nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait),
		nats.ConnectHandler(func(*nats.Conn) { b.connected.Store(true) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.connected.Store(false)
			if !b.watch.closing.Load() {
				b.logger.Warn("store: disconnected", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.connected.Store(true)
			b.logger.Info("store: connected again", "to", nc.ConnectedServerName())
		}),
	)
}

// Over has why the connection to the broker has ended, if it does so other than by Close:
// nothing brings it back.
func (b *Broker) Over() <-chan error { return b.watch.over }

// reach waits for the first connection.
func (b *Broker) reach(ctx context.Context) error {
	ticker := time.NewTicker(reconnectWait)
	defer ticker.Stop()
	for n := 0; !b.connected.Load(); n++ {
		if n%50 == 5 { // by then it is known why
			b.logger.Warn("waiting for the store", "err", b.watch.why(b.nc))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the store cannot be reached: %w", b.watch.why(b.nc))
		case <-ticker.C:
		}
	}
	return nil
}

// open makes what the broker keeps, and joins the other hubs. Each part opens what it owns,
// in the order in which they need each other.
func (b *Broker) open(ctx context.Context, cfg Config) error {
	if err := b.log.open(ctx, b.nc, cfg, b.peers.name(), b.connected.Load, b.rooms); err != nil {
		return err
	}
	err := b.rooms.open(ctx, b.nc, cfg)
	if err == nil && cfg.Torn {
		b.logger.Error("the machine stopped while the hub ran, or its disk failed: what was acknowledged just before may be lost, and whoever resumes from before is told of a gap")
		for range 2 { // what nobody has told of before is no change yet
			err = errors.Join(err, b.log.journal.Renew(ctx, "torn", rand.Text()))
		}
	}
	if err == nil {
		at := duties.Config{Prefix: cfg.Prefix, Replicas: cfg.Replicas, Bytes: cfg.Disk / besidePart, Alone: cfg.Alone, Node: b.peers.name(), Key: b.log.key, Logger: cfg.Logger}
		if !cfg.Alone {
			b.settling = &settling{others: b.peers, patience: settlePatience}
			at.Settle = b.settling.settle
		}
		b.duties, err = duties.Open(ctx, b.nc, at)
	}
	if err == nil {
		b.outbox, err = outbox.Open(ctx, b.nc, outbox.Config{
			Prefix: cfg.Prefix, Replicas: cfg.Replicas, Bytes: cfg.Disk / besidePart, Lead: b.duties.Lease().Lead,
			Unread: func(tenant string, place uint64, err error) { b.log.notUnderstood("outbox", tenant, place, err) },
			Logger: cfg.Logger,
		})
	}
	if err == nil {
		err = stream.Until(ctx, cfg.Logger, func(ctx context.Context) error { // what was just made may have no leader yet
			if cfg.Torn {
				if err := b.outbox.Renew(ctx); err != nil {
					return err
				}
			}
			return b.outbox.Beside(ctx, b.log.journal.Epoch())
		})
	}
	hears, first := func() bool { return true }, func() bool { return true }
	if err == nil && !cfg.Alone {
		err = b.peers.join(b.nc, cfg, b.log, b.rooms, b.duties)
		hears, first = func() bool { return b.peers.peers.Hears() }, b.peers.first
	}
	if err != nil {
		b.log.journal.Close()
		return err
	}
	b.rooms.watch(ctx, b.connected.Load, hears)
	b.log.journal.KeepWithin(first)
	return nil
}

// besidePart is how much less the outbox may take at the broker than histories, and what came of
// events, as a divisor.
const besidePart = 8

// Outbox is what services are told, by all hubs.
func (b *Broker) Outbox() *outbox.Box { return b.outbox }

// Duties make the keeper of who owes an acknowledgement, for all hubs.
func (b *Broker) Duties(cfg duty.Config) duty.Keeper { return b.duties.Judge(cfg) }

// Close leaves the others.
func (b *Broker) Close() {
	b.duties.Close()
	b.outbox.Close()
	b.rooms.close()
	if !b.alone {
		b.peers.peers.Close()
	}
	b.log.journal.Close()
	b.rooms.table.Close()
	b.watch.end()
	b.nc.Close()
}

// Log is the history that all hubs share.
func (b *Broker) Log() history.Log { return b.log }

// Rooms is who is a member where, for all hubs.
func (b *Broker) Rooms() room.Shared { return b.rooms }

// Peers are the other hubs; nil where there can be none.
func (b *Broker) Peers() cluster.Peers {
	if b.alone {
		return nil
	}
	return b.peers
}
