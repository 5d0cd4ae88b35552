package folder_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"realtimehub/internal/broker"
	"realtimehub/internal/folder"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
)

// In a folder a history is as any kind of Log is.
func TestLogInAFolder(t *testing.T) {
	t.Parallel()
	historytest.Run(t, historytest.Kind{Shared: true, Open: func(t *testing.T, limits history.Limits) history.Log {
		f, err := folder.Open(folder.Config{Dir: t.TempDir(), Sync: time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		cfg := broker.Config{Inside: f.Connect(), Alone: true, Prefix: "test", Replicas: 1, Limits: limits, Logger: slog.New(slog.DiscardHandler)}
		return natstest.Join(t, func(ctx context.Context) (*broker.Broker, error) { return broker.Connect(ctx, cfg) }).Log()
	}})
}
