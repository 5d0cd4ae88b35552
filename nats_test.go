package main

import (
	"context"
	"flag"
	"log/slog"
	"testing"

	"realtimehub/internal/broker"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

var clusterFlag = flag.Int("cluster", 0, "run the hub's suite on so many hubs that share a NATS server; 0: on one alone")

// newPrefix keeps what is shared apart from other tests'.
var newPrefix = natstest.Prefix

// theBroker is a server of the test's own.
func theBroker(t testing.TB) *natstest.Broker { return natstest.Start(t, 1) }

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
