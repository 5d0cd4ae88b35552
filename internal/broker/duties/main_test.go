package duties

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(8)
	testkit.Main(m, natstest.Clean)
}

// confirmed asks again while a busy machine's broker answers late. What it has kept nonetheless may
// stand in the way until it is read.
func confirmed(t testing.TB, ask func() error) {
	t.Helper()
	late := func(err error) bool {
		late := errors.Is(err, stream.ErrUnconfirmed) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
		return late || errors.Is(err, errAnew) || stream.WasSecond(err)
	}
	testkit.Answer(t, late, func() (none struct{}, err error) { return none, ask() })
}

// openDuty has a keeper keep a duty.
func openDuty(t testing.TB, k *Keeper, d *duty.Duty) {
	t.Helper()
	confirmed(t, func() error { return k.Open(t.Context(), d) })
}
