package main

import (
	"context"
	"flag"
	"log/slog"
	"testing"
	"time"

	"realtimehub/internal/broker"
	"realtimehub/internal/folder"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

var clusterFlag = flag.Int("cluster", 0, "run the hub's suite on so many hubs that share a NATS server; 0: on one alone")

var folderFlag = flag.Bool("folder", false, "run the hub's suite on a hub that keeps all in a folder")

// newPrefix keeps what is shared apart from other tests'.
var newPrefix = natstest.Prefix

// theBroker is a server of the test's own.
func theBroker(t testing.TB) *natstest.Broker { return natstest.Start(t, 1) }

// joinFolder is the side of a hub that has a folder of its own, until the test ends. Its writes
// do not wait for the disk, which may be slow, or others' too.
func joinFolder(t testing.TB, limits history.Limits, change ...func(*broker.Config)) *broker.Broker {
	t.Helper()
	f, err := folder.Open(folder.Config{Dir: t.TempDir(), Sync: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return joinBrokerAt(t, "", 1, newPrefix(), limits, append(change, func(cfg *broker.Config) { cfg.Inside, cfg.Alone = f.Connect(), true })...)
}

// joinBroker connects a hub's side to a server of the test's own.
func joinBroker(t testing.TB, b *natstest.Broker, server int, prefix string, limits history.Limits, change ...func(*broker.Config)) *broker.Broker {
	t.Helper()
	return joinBrokerAt(t, b.URL(server), len(b.Servers), prefix, limits, change...)
}

// joinBrokerAt connects a hub's side to a server, until the test ends.
func joinBrokerAt(t testing.TB, url string, replicas int, prefix string, limits history.Limits, change ...func(*broker.Config)) *broker.Broker {
	t.Helper()
	cfg := broker.Config{URL: url, Prefix: prefix, Replicas: replicas, Limits: limits, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	return natstest.Join(t, func(ctx context.Context) (*broker.Broker, error) { return broker.Connect(ctx, cfg) })
}
