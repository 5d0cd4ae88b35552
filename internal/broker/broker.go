package broker

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"realtimehub/internal/broker/journal"
	"realtimehub/internal/broker/peers"
	"realtimehub/internal/cluster"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// Config is how hubs that share a NATS server or cluster are one.
type Config struct {
	URL      string // one, or several with commas
	Creds    string // path of a credentials file; empty: none
	Prefix   string // of all subjects and streams
	Replicas int
	Limits   history.Limits // Bytes is of a tenant, also at the broker; Total of what this hub keeps near
	Disk     int64          // bytes of all tenants together at the broker; 0: no limit
	// Prepare: the sink prepares for what other hubs append.
	Prepare bool
	Logger  *slog.Logger
}

// Broker is what hubs share over NATS JetStream. No file but this and natswatch.go
// knows NATS itself.
type Broker struct {
	nc         *nats.Conn
	connected  atomic.Bool
	watch      *watch
	logger     *slog.Logger
	Kept       *SharedLog
	Belongings *SharedRooms
	peers      *OtherHubs
}

// How the connection is kept: a broker that is stopped is noticed within 2 s, and
// nothing is sent later that was answered as failed.
const (
	brokerPing  = 700 * time.Millisecond
	brokerPings = 2
)

// Connect connects, and makes what the broker keeps; it waits as long as ctx
// allows.
func Connect(ctx context.Context, cfg Config) (*Broker, error) {
	b := &Broker{
		logger: cfg.Logger, Kept: newBrokerLog(cfg.Disk, cfg.Logger),
		Belongings: newBrokerRooms(cfg.Logger),
		peers:      &OtherHubs{Ready: make(chan struct{}), logger: cfg.Logger, silence: rate.Sometimes{Interval: time.Second}},
	}
	rand.Read(b.peers.node[:])
	b.Kept.Near = history.NewNear(cfg.Limits, b.Kept.Epoch, b.Kept.scan)
	access := []nats.Option{nats.Name("realtimehub " + b.peers.name())}
	if cfg.Creds != "" {
		access = append(access, nats.UserCredentials(cfg.Creds))
	}
	b.watch = newBrokerWatch(access, cfg.Logger)
	options := append(b.watch.options(cfg.URL),
		nats.NoEcho(), nats.RetryOnFailedConnect(true),
		nats.ReconnectBufSize(-1), nats.PingInterval(brokerPing), nats.MaxPingsOutstanding(brokerPings),
		nats.MaxReconnects(-1), nats.ReconnectWait(brokerReconnect),
		nats.ConnectHandler(func(*nats.Conn) { b.connected.Store(true) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.connected.Store(false)
			cfg.Logger.Warn("broker: disconnected", "err", err)
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.connected.Store(true)
			cfg.Logger.Info("broker: connected again", "to", nc.ConnectedServerName())
		}),
	)
	var err error
	if b.nc, err = nats.Connect(cfg.URL, options...); err != nil {
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
	b.watch.begin(b.nc, b.Kept.Journal)
	return b, nil
}

// Over has why the connection to the broker has ended, if it does so other than by Close:
// nothing brings it back.
func (b *Broker) Over() <-chan error { return b.watch.over }

// reach waits for the first connection.
func (b *Broker) reach(ctx context.Context) error {
	ticker := time.NewTicker(brokerReconnect)
	defer ticker.Stop()
	for n := 0; !b.connected.Load(); n++ {
		if n%50 == 5 { // by then it is known why
			b.logger.Warn("waiting for the broker", "err", b.watch.why(b.nc))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no server can be reached: %w", b.watch.why(b.nc))
		case <-ticker.C:
		}
	}
	return nil
}

// open makes what the broker keeps, and joins the other hubs.
func (b *Broker) open(ctx context.Context, cfg Config) (err error) {
	name, log, rooms, others := b.peers.name(), b.Kept, b.Belongings, b.peers
	kept := journal.Config{
		Prefix: cfg.Prefix, Node: name, Replicas: cfg.Replicas, PerKey: cfg.Limits.Events,
		KeyBytes: cfg.Limits.Bytes, Bytes: cfg.Disk, Age: cfg.Limits.TTL, Window: cfg.Limits.Window, Logger: cfg.Logger,
		Connected: b.connected.Load, Handle: log.Handle, Flush: log.flush, Quiet: log.quiet, Lost: log.lost,
		Gone: func(what string) { log.lose(history.Kept(what)) }, Fault: func(what string) { b.watch.faults.Add(history.Fault(what), 1) },
		Beside: rooms.goesBeside, Behind: rooms.Behind, Await: rooms.Await,
	}
	if cfg.Prepare {
		kept.Prepare = log.prepare
	}
	if log.Journal, err = journal.Open(ctx, b.nc, kept); err != nil {
		return err
	}
	rooms.journal, rooms.epoch, rooms.AskAll, rooms.lose = log.Journal, log.epochOf, others.AskAll, log.lose
	rooms.Table, err = journal.OpenTable(ctx, b.nc, journal.TableConfig{
		Prefix: cfg.Prefix, Replicas: cfg.Replicas, Age: cfg.Limits.TTL, Logger: cfg.Logger, Changed: rooms.changed, Lost: rooms.lost,
	})
	if err == nil {
		log.Journal.Requires(rooms.Table)
		log.faults, others.hears = b.watch.faults, log.Journal.Heard
		others.known, others.away = rooms.Reached, rooms.away
		others.peers, err = peers.Start(b.nc, peers.Config{
			Prefix: cfg.Prefix, Node: name, Able: log.Journal.Heard, Sure: log.Journal.Prove, Logger: cfg.Logger,
			Items: others.items, Changed: others.Changed, Told: others.told, Serve: others.serve, Resynced: rooms.resync,
		})
	}
	if err != nil {
		log.Journal.Close()
		return err
	}
	rooms.heard = others.peers.Hears
	rooms.watch(ctx, b.connected.Load)
	log.Journal.KeepWithin(func() bool { return others.first() })
	return nil
}

// Close leaves the others.
func (b *Broker) Close() {
	b.Belongings.close()
	b.peers.peers.Close()
	b.Kept.Journal.Close()
	b.Belongings.Table.Close()
	b.watch.end()
	b.nc.Close()
}

// Log is the history that all hubs share.
func (b *Broker) Log() history.Log { return b.Kept }

// Rooms is who belongs where, for all hubs.
func (b *Broker) Rooms() room.Shared { return b.Belongings }

// Peers are the other hubs.
func (b *Broker) Peers() cluster.Peers { return b.peers }
