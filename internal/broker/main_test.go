package broker

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(8)
	testkit.Main(m, natstest.Clean)
}

// testLimits are the defaults of a hub.
var testLimits = history.Limits{Events: 10_000, Bytes: 64 << 20, TTL: 24 * time.Hour, Total: 1 << 30, Window: 2 * time.Minute, IDs: 1_000_000}

// join connects a hub's side to a broker of one server, until the test ends.
func join(t testing.TB, url, prefix string, change ...func(*Config)) *Broker {
	t.Helper()
	cfg := Config{URL: url, Prefix: prefix, Replicas: 1, Limits: testLimits, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	return natstest.Join(t, func(ctx context.Context) (*Broker, error) { return Connect(ctx, cfg) })
}

// within are other limits than the defaults.
func within(limits history.Limits) func(*Config) { return func(cfg *Config) { cfg.Limits = limits } }
