package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/broker"
	"realtimehub/internal/cluster"
	"realtimehub/internal/folder"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/room"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
	"realtimehub/internal/webhook"
)

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
		if err == nil && page.Next.Epoch == from.Epoch {
			return page, gap, nil
		}
		if from = page.Next; err == nil { // it has begun anew meanwhile
			from, err = h.log.Find(ctx, tenant, after, nil)
		}
	}
}

// Event finds an event that is kept, by its cursor or its id; nil: there is none.
func (h *Hub) Event(ctx context.Context, tenant, ref string) (*history.Entry, error) {
	at, err := h.log.Find(ctx, tenant, ref, nil)
	if err == nil && at.Seq > 0 {
		page, err := h.log.Read(ctx, tenant, history.Query{After: at.Seq - 1, Until: at.Seq, Limit: 1})
		if len(page.Entries) == 1 && page.Entries[0].Cursor == at {
			return page.Entries[0], nil
		}
		if errors.Is(err, history.ErrExpired) { // what comes after it is still there
			err = nil
		}
		return nil, err
	}
	for after := ""; ; {
		page, _, err := h.History(ctx, tenant, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if e.Event.ID == ref {
				return e, nil
			}
		}
		if !page.More() {
			return nil, nil
		}
		after = page.Next.String()
	}
}

// historyBytes bounds one piece of History.
const historyBytes = 64 << 10

// Sweep forgets what nobody needs any more. Called now and then.
func (h *Hub) Sweep(now time.Time) {
	answers := true // the log; who does not is asked again the next time, and not by each tenant
	h.tenants.Prune(now, func(tenant string) (uint64, error) {
		if !answers {
			return 0, errors.ErrUnsupported
		}
		oldest, err := h.log.Find(context.Background(), tenant, "", nil)
		answers = err == nil
		return oldest.Seq, err
	})
	h.log.Sweep(now)
	h.outbox.Sweep(now)
	stats := h.Stats()
	if lost := stats.Log.LostIDs; lost > h.lostIDs {
		h.logger.Warn("event ids were forgotten before their dedupe window ended", "lost", lost)
		h.lostIDs = lost
	}
	if cut := stats.Log.CutAll; cut > h.cutAll {
		h.logger.Warn("all histories together reached their limit: the tenants with the most history lost their oldest events", "events", cut-h.cutAll, "limit", stats.Log.Limit)
		h.cutAll = cut
	}
	if cut := h.outbox.Stats().Cut; cut > h.cutOutbox {
		h.logger.Warn("outboxes reached their limit: the tenants with most lost their oldest items before their time", "items", cut-h.cutOutbox)
		h.cutOutbox = cut
	}
	for reason, n := range stats.Dropped {
		if reason.ForGood() && n > h.dropped[reason] {
			h.logger.Warn("events dropped", "reason", string(reason), "events", n-h.dropped[reason])
		}
	}
	h.dropped = stats.Dropped
}

// outboxPart is the part of the memory for state that outboxes may take, as its divisor.
const outboxPart = 8

// newOutbox keeps what services are told in this process.
func newOutbox(quotas *allowance.Pools) outbox.Box {
	return outbox.NewMemory(outbox.MemoryConfig{Bytes: quotas.AllState() / outboxPart, Held: quotas.State})
}

// Tell puts into the outbox what services are told of people, connections and rooms, and sends
// it if the settings say where, until end is called: that waits a little for what is under way.
func (h *Hub) Tell(ctx context.Context, cfg settings.Config) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { h.notices.Run(ctx) })
	if endpoint, secrets := cfg.Webhook(); endpoint != nil {
		h.webhook = webhook.New(webhook.Config{Box: h.outbox, Endpoint: endpoint, Secrets: secrets, Logger: h.logger})
		telling.Go(func() { h.webhook.Run(ctx) })
	}
	return func() {
		last, over := context.WithTimeout(ctx, flushTime)
		h.notices.Flush(last)
		over()
		cancel()
		telling.Wait()
	}
}

// flushTime is how long the end waits for the outbox to take what it has yet to.
const flushTime = 2 * time.Second

// backing is what a hub stands on, alone or with others.
type backing struct {
	log   history.Log
	rooms room.Shared
	peers cluster.Peers
	told  Reporting
	over  <-chan error // has why others cannot be reached any more
	leave func()
}

// brokerWait is how long the start waits for the broker.
const brokerWait = time.Minute

// openStore keeps everything in this process; or on the broker, where one is configured,
// and joins the other hubs there. Histories take so many bytes of memory.
func openStore(ctx context.Context, cfg settings.Config, bytes int64, quotas *allowance.Pools, logger *slog.Logger) (backing, error) {
	limits := history.Limits{
		Events: cfg.HistoryEvents, Bytes: cfg.HistoryBytes, TTL: cfg.HistoryTTL, Total: bytes,
		Window: cfg.DedupeWindow, IDs: cfg.DedupeIDs, Held: quotas.IDs,
	}
	if cfg.NATSURL == "" && cfg.Data == "" {
		return backing{log: history.NewMemory(limits), told: Reporting{Types: cfg.Told(), Repeats: cfg.DedupeWindow}, leave: func() {}}, nil
	}
	if cfg.NATSURL != "" && cfg.NATSCreds != "" {
		if _, err := os.ReadFile(cfg.NATSCreds); err != nil {
			return backing{}, fmt.Errorf("%sNATS_CREDS: %w", settings.Prefix, err)
		}
	}
	settle := func() error { return nil }
	at, leave, name := broker.Config{URL: cfg.NATSURL}, func() {}, "NATS_URL"
	if cfg.NATSURL != "" {
		at.Creds = cfg.NATSCreds // nobody asks for them inside
	} else {
		own, err := openFolder(cfg, logger)
		if err != nil {
			return backing{}, err
		}
		at.Inside, at.Alone, at.Whole, at.Torn, leave, name = own.Connect(), len(cfg.Peers) == 0, own.Whole, own.Torn(), own.Close, "DATA"
		settle = own.Settle
		if len(cfg.Peers) > 0 {
			name = "PEERS" // they are what is waited for
		}
	}
	if !at.Alone {
		logger.Info("waiting for the store, which takes some seconds where other hubs start as well", "atMost", brokerWait)
	}
	ctx, cancel := context.WithTimeout(ctx, brokerWait)
	defer cancel()
	external := cfg.MembershipURL != ""
	at.Prefix, at.Replicas, at.Limits, at.Disk, at.Prepare, at.Logger = cfg.NATSPrefix, cfg.Replicas(), limits, cfg.Disk(), external, logger
	b, err := broker.Connect(ctx, at)
	if err == nil {
		if err = settle(); err != nil {
			b.Close()
		}
	}
	if err != nil {
		leave()
		if inURL, ok := errors.AsType[*url.Error](err); ok {
			err = inURL.Err // it repeats the URL, which may hold a secret
		}
		return backing{}, fmt.Errorf("%s%s: %w", settings.Prefix, name, err)
	}
	s := backing{log: b.Log(), peers: b.Peers(), told: Reporting{Types: cfg.Told(), Box: b.Outbox(), Keeper: b.Duties, Repeats: cfg.DedupeWindow}, over: b.Over(), leave: func() { b.Close(); leave() }}
	if !external {
		s.rooms = b.Rooms()
	}
	return s, nil
}

// openFolder takes the folder in which this hub keeps everything, alone or with others.
func openFolder(cfg settings.Config, logger *slog.Logger) (*folder.Folder, error) {
	own := folder.Config{Dir: cfg.Data, Sync: time.Duration(cfg.Sync), Logger: logger}
	if len(cfg.Peers) > 0 {
		own.Peers = &folder.Peers{Name: cfg.NATSPrefix, Listen: cfg.PeersAddr, Addrs: cfg.Peers, Secret: cfg.PeersSecret}
		if cfg.PeersCert != "" {
			certificate, err := serve.LoadCertificate(cfg.PeersCert, cfg.PeersKey, logger)
			if err == nil {
				own.Peers.TLS, err = certificate.Mutual(cfg.PeersCA)
			}
			if err != nil {
				return nil, fmt.Errorf("%sPEERS_CERT: %w", settings.Prefix, err)
			}
		}
	}
	f, err := folder.Open(own)
	if err != nil {
		return nil, fmt.Errorf("%sDATA: %s: %w", settings.Prefix, cfg.Data, err)
	}
	path, _ := filepath.Abs(cfg.Data)
	logger.Info("histories, event ids and memberships are kept in a folder", "folder", path)
	return f, nil
}

// sweep has the hub forget what has grown old, often enough for a short TTL.
func sweep(ctx context.Context, hub *Hub, ttl time.Duration) {
	every := time.Minute
	if ttl > 0 {
		every = min(every, max(ttl/8, time.Second))
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			hub.Sweep(now)
		}
	}
}

// settleTime is how long a hub may take, once it is there, to know what the others do.
const settleTime = 20 * time.Second
