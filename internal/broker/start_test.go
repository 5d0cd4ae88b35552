package broker

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// Who starts a hub is told why it does not come up, not only that it waits.
func TestAStartWithoutBrokerSaysWhy(t *testing.T) {
	is := is.New(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var logs testkit.Buffer
	cfg := Config{URL: "nats://127.0.0.1:1", Prefix: "none", Replicas: 1, Limits: testLimits, Logger: slog.New(slog.NewTextHandler(&logs, nil))}
	failed := make(chan error, 1)
	go func() {
		_, err := Connect(ctx, cfg)
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
