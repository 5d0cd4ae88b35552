package serve

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// ErrInterrupted is the cause of an end by Ctrl+C: somebody waits for it.
var ErrInterrupted = errors.New("interrupted")

// UntilSignal ends with the first signal to end; a second one ends the process at once.
func UntilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		first := <-signals
		signal.Stop(signals)
		if first == os.Interrupt {
			cancel(ErrInterrupted)
		} else {
			cancel(nil)
		}
	}()
	return ctx
}

// OnHangup reads again what is in files each time the process is told to (SIGHUP), until
// ctx ends.
func OnHangup(ctx context.Context, reread func(), logger *slog.Logger) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				logger.Info("SIGHUP: reading keys and certificates again; settings in the environment need a restart")
				reread()
			case <-ctx.Done():
				return
			}
		}
	}()
}
