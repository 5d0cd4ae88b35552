package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

var clusterFlag = flag.Int("cluster", 0, "run the hub's suite on so many hubs that share a NATS server; 0: on one alone")

var prefixes atomic.Int64

// newPrefix keeps what is shared apart from other tests'.
func newPrefix() string { return fmt.Sprint("test", prefixes.Add(1)) }

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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	broker, err := broker.Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	return broker
}

// Who starts a hub is told why it does not come up, not only that it waits.
func TestAStartWithoutBrokerSaysWhy(t *testing.T) {
	is := is.New(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var logs syncBuffer
	cfg := broker.Config{URL: "nats://127.0.0.1:1", Prefix: "none", Replicas: 1, Limits: testLimits, Logger: slog.New(slog.NewTextHandler(&logs, nil))}
	failed := make(chan error, 1)
	go func() {
		_, err := broker.Connect(ctx, cfg)
		failed <- err
	}()
	for ctx.Err() == nil && !strings.Contains(logs.String(), "refused") {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	err := <-failed
	is.True(strings.Contains(logs.String(), "waiting for the broker"))
	is.True(err != nil && strings.Contains(err.Error(), "refused"))
}
