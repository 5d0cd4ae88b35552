package overload

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

// memoryOf is a Use of so many percent.
func memoryOf(percent *atomic.Int64) Use {
	return func(bool) (used, limit int64) { return percent.Load() * 1000, 100_000 }
}

// keepsNothing is the kept of a hub that does not.
func keepsNothing() int64 { return 0 }

// An overload begins at 90 % and ends below 75 %, a second later at the earliest, and
// each is said once.
func TestOverloadBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var used, reliefs atomic.Int64
		var logs strings.Builder
		o := New(memoryOf(&used), keepsNothing, func() { reliefs.Add(1) }, slog.New(slog.NewTextHandler(&logs, nil)))
		for _, step := range []struct {
			used       int64
			overloaded bool
		}{{0, false}, {89, false}, {90, true}, {10, true}, {99, true}, {75, true}, {89, true}, {74, false}, {89, false}, {120, true}} {
			used.Store(step.used)
			o.Look(time.Now())
			is.Equal(o.Overloaded(), step.overloaded)
			is.Equal(o.Stats(), Stats{step.overloaded, step.used * 1000, 100_000})
			time.Sleep(overloadLeast / 4)
		}
		is.Equal(strings.Count(logs.String(), `msg="overloaded: `), 2)
		is.Equal(strings.Count(logs.String(), `msg="no longer overloaded"`), 1)
		is.Equal(reliefs.Load(), int64(3)) // not at each look
	})
}

// Whatever is planned, an overload ends by itself in a hub whose histories and state are as
// full as they may be, once its streams owe what a relief leaves.
func TestAnOverloadEndsWhereMuchIsKept(t *testing.T) {
	const mib = 1 << 20
	plans := map[string]plan.Memory{
		"most is history":    {Streams: 64 * mib, History: 4096 * mib, State: 64 * mib, Calls: 16 * mib},
		"most is state":      {Streams: 64 * mib, History: mib, State: 1024 * mib, Calls: 64 * mib},
		"most is for others": {Streams: 1024 * mib, History: mib, State: 32 * mib, Calls: 64 * mib},
		"little of all":      {Streams: 8 * mib, History: 8 * mib, State: 4 * mib, Calls: 4 * mib},
	}
	for bytes := int64(64 * mib); bytes <= 64<<30; bytes *= 2 {
		plans[fmt.Sprint(bytes/mib, " MiB")] = plan.Of(bytes)
	}
	for name, memory := range plans {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				used, kept, limit := int64(0), memory.History+memory.State, memory.GoLimit()
				o := &Guard{
					use: func(bool) (int64, int64) { return used, limit }, kept: func() int64 { return kept },
					relieve: func() {}, logger: slog.New(slog.DiscardHandler),
				}
				used = limit
				o.Look(time.Now())
				is.True(o.Overloaded())
				time.Sleep(overloadLeast)
				const idle, relieved = 4 * mib, 30 // percent
				used = kept + memory.Streams/100*relieved + idle
				o.Look(time.Now())
				is.True(!o.Overloaded())
				is.True(used < limit/100*overloadBegins) // nor does it begin again
			})
		})
	}
}

// The memory is looked at all the time, and streams are relieved while it is scarce;
// nothing is done without a limit.
func TestMemoryIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var used, reliefs atomic.Int64
		var freshly atomic.Bool
		o := &Guard{kept: keepsNothing, relieve: func() { reliefs.Add(1) }, logger: slog.New(slog.DiscardHandler)}
		o.WatchMemory(t.Context()) // returns: there is nothing to be watched
		o.use = func(fresh bool) (int64, int64) {
			freshly.Store(fresh)
			return memoryOf(&used)(fresh)
		}
		go o.WatchMemory(t.Context())
		time.Sleep(time.Hour)
		synctest.Wait()
		is.True(!o.Overloaded())
		used.Store(95)
		time.Sleep(overloadLook)
		synctest.Wait()
		is.True(o.Overloaded())
		time.Sleep(10*overloadRelief - overloadLook)
		synctest.Wait()
		is.Equal(reliefs.Load(), int64(10))
		is.True(freshly.Load()) // who is refused makes no garbage: it must be looked for
		used.Store(10)
		time.Sleep(overloadLook)
		synctest.Wait()
		is.True(!o.Overloaded())

		unlimited := &Guard{use: func(bool) (int64, int64) { return 1 << 40, 0 }, kept: keepsNothing, logger: slog.New(slog.DiscardHandler)}
		go unlimited.WatchMemory(t.Context())
		time.Sleep(time.Hour)
		is.True(!unlimited.Overloaded())
	})
}

// What is judged is what a collection cannot give back, and not garbage.
func TestGoMemory(t *testing.T) {
	is := is.New(t)
	use := GoMemory()
	testkit.LiveHeap() // collects
	before, _ := use(true)
	percent := debug.SetGCPercent(-1)
	for range 8 {
		garbage = make([]byte, 16<<20)
	}
	after, _ := use(false)
	debug.SetGCPercent(percent)
	is.True(after-before < 16<<20)
	garbage = make([]byte, 64<<20)
	testkit.LiveHeap()
	after, _ = use(false)
	is.True(after-before >= 60<<20)
	garbage = nil
	testkit.LiveHeap()
	after, _ = use(false)
	is.True(after-before < 16<<20)
}

var garbage []byte
