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
		"nats-server -js":     nats.ErrNoResponders,
		"a server of its own": &jetstream.APIError{Code: 500, ErrorCode: 10074, Description: "replicas > 1 not supported in non-clustered mode"},
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
