package outbox

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/outbox/outboxtest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(8)
	testkit.Main(m, natstest.Clean)
}

// alone leads for as long as it is there.
func alone(ctx context.Context, do func(context.Context)) {
	do(ctx)
	<-ctx.Done()
}

// open is one process's side of an outbox, until the test ends.
func open(t testing.TB, url, prefix string, change ...func(*Config)) *Box {
	t.Helper()
	nc := natstest.Connect(t, url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.NoEcho())
	cfg := Config{Prefix: prefix, Replicas: 1, Lead: alone, Unread: func(string, uint64, error) {}, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	b, err := Open(t.Context(), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func threeReplicas(cfg *Config) { cfg.Replicas = 3 }

// The outbox on a broker is like any other.
func TestOneServer(t *testing.T) {
	t.Parallel()
	url := natstest.Start(t, 1).URL(0)
	outboxtest.Run(t, outboxtest.Kind{Open: func(t *testing.T) outbox.Box { return open(t, url, natstest.Prefix()) }})
}

func TestThreeServers(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 3)
	outboxtest.Run(t, outboxtest.Kind{Open: func(t *testing.T) outbox.Box {
		return open(t, b.URL(0), natstest.Prefix(), threeReplicas)
	}})
}
