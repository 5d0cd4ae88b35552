package journal

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// Within three seconds after something is possible no more, or is again, a hub says so,
// whether those whom it asks refuse or say nothing.
func TestATrialIsRightWithinThreeSeconds(t *testing.T) {
	refuses := func(context.Context) error { return errors.New("no") }
	hangs := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, fails := range map[string]func(context.Context) error{"refuses": refuses, "hangs": hangs} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				ctx, end := context.WithCancel(t.Context())
				defer synctest.Wait()
				defer time.Sleep(tryEach)
				defer end()
				var possible atomic.Bool
				tries := &trial{what: "history", try: func(ctx context.Context) error {
					if possible.Load() {
						return nil
					}
					return fails(ctx)
				}}
				go func() { // as keepTrying
					for ; ctx.Err() == nil; time.Sleep(tryEach) {
						go tries.run(ctx)
					}
				}()
				for offset := range 7 { // before the next try
					possible.Store(true)
					time.Sleep(3 * time.Second)
					is.NoErr(tries.fault())
					time.Sleep(time.Duration(offset) * tryEach / 7)
					possible.Store(false)
					time.Sleep(3 * time.Second)
					is.True(tries.fault() != nil)
				}
			})
		})
	}
}
