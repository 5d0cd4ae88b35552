package stream

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A broker that cannot keep anything is told of now and then, with what to do; not with
// each try.
func TestWaitingSaysWhyAndIsCalm(t *testing.T) {
	for remedy, err := range map[string]error{
		"nats-server -js":      nats.ErrNoResponders,
		"too few NATS servers": &jetstream.APIError{Code: 503, ErrorCode: codeUnavailable, Description: "JetStream system temporarily unavailable"},
		"a server of its own":  &jetstream.APIError{Code: 500, ErrorCode: 10074, Description: "replicas > 1 not supported in non-clustered mode"},
	} {
		t.Run(remedy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				ctx, stop := context.WithTimeout(t.Context(), 58*time.Second)
				defer stop()
				var logs bytes.Buffer
				got := UntilMade(ctx, slog.New(slog.NewTextHandler(&logs, nil)), func(context.Context) error { return err })
				is.True(strings.Contains(got.Error(), remedy))
				is.True(strings.Contains(logs.String(), remedy))
				is.True(strings.Count(logs.String(), "\n") <= 12) // 290 tries
			})
		})
	}
}

// A broker that elects a leader, or waits for others that start as well, is no fault yet.
func TestWaitingForAStartIsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		for lasts, lines := range map[time.Duration]int{9 * time.Second: 0, 11 * time.Second: 1} {
			var logs bytes.Buffer
			begun := time.Now()
			is.NoErr(UntilMade(t.Context(), slog.New(slog.NewTextHandler(&logs, nil)), func(context.Context) error {
				if time.Since(begun) < lasts {
					return context.DeadlineExceeded
				}
				return nil
			}))
			is.Equal(strings.Count(logs.String(), "\n"), lines) // lasts
		}
	})
}

// A connection that is closed stays so: nobody waits.
func TestNobodyWaitsOnAClosedConnection(t *testing.T) {
	is := is.New(t)
	tries := 0
	err := UntilMade(t.Context(), slog.New(slog.DiscardHandler), func(context.Context) error {
		if tries++; tries == 1 {
			return nats.ErrConnectionClosed
		}
		return nil
	})
	is.Equal(err, nats.ErrConnectionClosed)
}
