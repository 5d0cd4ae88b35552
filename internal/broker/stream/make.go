package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Make makes what the broker keeps, or adapts it.
func (s *Stream) Make(ctx context.Context, logger *slog.Logger, do func(context.Context, jetstream.JetStream) error) error {
	js, err := jetstream.New(s.nc)
	if err != nil {
		return err
	}
	return UntilMade(ctx, logger, func(ctx context.Context) error {
		if err := s.restoring(ctx); err != nil {
			return err
		}
		return do(ctx, js)
	})
}

// UntilMade is Until for what is quick, where there is a leader.
func UntilMade(ctx context.Context, logger *slog.Logger, do func(context.Context) error) error {
	return Until(ctx, logger, func(ctx context.Context) error {
		once, cancel := context.WithTimeout(ctx, MakeTimeout) // who has no leader does not answer
		defer cancel()
		return do(once)
	})
}

// Until tries as long as ctx allows and the broker may still come to it. That takes some
// seconds while servers start, or elect a leader; it is told where it takes longer.
func Until(ctx context.Context, logger *slog.Logger, do func(context.Context) error) error {
	again := time.Now().Add(sayEvery)
	for {
		err := explained(do(ctx))
		if err == nil || !transient(err) {
			return err
		}
		if now := time.Now(); now.After(again) {
			logger.Warn("waiting for the store", "err", err)
			again = now.Add(sayEvery)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(tryEvery):
		}
	}
}

// explained adds what to do where the broker's words do not tell.
func explained(err error) error {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if errors.Is(err, context.DeadlineExceeded) || ok && api.ErrorCode == codeUnavailable {
		return fmt.Errorf("too few NATS servers, or hubs of REALTIME_PEERS, are up, or they have not agreed yet on who leads: %w", err)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("JetStream is not up yet, or is off on the NATS servers (nats-server -js): %w", err)
	}
	if ok && tooFew(api) {
		return fmt.Errorf("each replica needs a server of its own, and too few are up: %w", err)
	}
	return err
}

// tooFew says whether there are fewer servers than replicas, for now: no suitable peers, or
// no cluster.
func tooFew(api *jetstream.APIError) bool { return api.ErrorCode == 10005 || api.ErrorCode == 10074 }

// transient says whether a broker that is starting, or electing, may say so. A closed connection
// stays closed.
func transient(err error) bool {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return false
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.Code >= 500 || tooFew(api)
	}
	return true
}
