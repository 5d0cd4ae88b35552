package overload

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"realtimehub/internal/problem"
)

// ErrOverloaded is why nothing more is taken while hardly any memory is left.
var ErrOverloaded error = overloaded{}

type overloaded struct{}

func (overloaded) Error() string { return "the hub has hardly any memory left" }

// Problem implements Answerer. Those who are sent away together do not come back together.
func (o overloaded) Problem() *problem.Problem {
	return &problem.Problem{Status: http.StatusServiceUnavailable, Code: "Overloaded", Detail: o.Error() + "; nothing was stored, try again later",
		After: Jittered(Away / 2).Truncate(time.Second)}
}

// An overload begins at so many percent of the memory that there is. What is kept then,
// histories and state, has bounds of its own and stays, and may be more than any lower
// percentage: so the overload ends when all the rest is a sixth less than it may be where
// one begins. Any nearer, and what it was about would begin it again.
const (
	overloadBegins = 90
	overloadPart   = 6 // so it ends below 75 % where nothing is kept
)

const (
	overloadLook   = 100 * time.Millisecond // an attack fills some 100 MB a second: a tenth of 1 GiB
	overloadLeast  = time.Second            // that it lasts: one that comes and goes is not told of all the time
	overloadRelief = time.Second            // between two reliefs of streams while it lasts
	Away           = 10 * time.Second       // of a client that comes meanwhile, at least
)

// Use is how many bytes of memory are in use, and how many there may be; 0: any
// number. fresh asks for what is in use now, and not some time ago.
type Use func(fresh bool) (used, limit int64)

// Guard says whether the hub has hardly any memory left: then it takes no stream and
// no event, so that those who are there keep theirs.
type Guard struct {
	// Static.
	use     Use          // nil: never overloaded
	kept    func() int64 // bytes of that which stay
	relieve func()
	logger  *slog.Logger

	now         atomic.Bool
	used, limit atomic.Int64 // as of the last look

	// Owned by WatchMemory: when it began, and streams were relieved for it.
	since, relieved time.Time
}

// New watches the memory in use, if that is known. kept is how many bytes of it stay
// whatever is done, and relieve has streams give some back.
func New(use Use, kept func() int64, relieve func(), logger *slog.Logger) *Guard {
	return &Guard{use: use, kept: kept, relieve: relieve, logger: logger}
}

// Overloaded says that nothing more is to be taken.
func (o *Guard) Overloaded() bool { return o.now.Load() }

// WatchMemory looks at the memory in use until ctx ends.
func (o *Guard) WatchMemory(ctx context.Context) {
	if o.use == nil {
		return
	}
	ticker := time.NewTicker(overloadLook)
	defer ticker.Stop()
	for {
		o.Look(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Look begins and ends an overload, as of a time that does not go back.
func (o *Guard) Look(now time.Time) {
	was := o.now.Load()
	used, limit := o.use(was)
	o.used.Store(used)
	o.limit.Store(limit)
	begins := limit / 100 * overloadBegins
	ends := begins - max(0, begins-o.kept())/overloadPart
	switch {
	case !was && limit > 0 && used >= begins:
		o.now.Store(true)
		o.since, o.relieved = now, time.Time{}
		o.logger.Warn("overloaded: new streams and events are refused", "used", used, "limit", limit)
	case was && (limit == 0 || used < ends) && now.Sub(o.since) >= overloadLeast:
		o.now.Store(false)
		o.logger.Warn("no longer overloaded", "used", used, "limit", limit, "after", now.Sub(o.since))
	}
	if o.now.Load() && now.Sub(o.relieved) >= overloadRelief {
		o.relieved = now
		o.relieve()
	}
}

// Stats is what was found at the last look; Limit 0: no limit.
type Stats struct {
	Now         bool
	Used, Limit int64 // bytes
}

// Stats looks at what was found, not at the memory.
func (o *Guard) Stats() Stats {
	return Stats{o.now.Load(), o.used.Load(), o.limit.Load()}
}

// collectEvery is how old the word of the last collection may be while there is an
// overload: who is refused makes no garbage, and Go collects what others have left
// only when there is.
const collectEvery = 5 * time.Second

// GoMemory is the Use of this process: of Go's memory limit, whoever has set it,
// what a collection cannot give back. That is what the last one found alive, and stacks.
// The heap as it is would be no measure: with memory to spare most of it is garbage.
func GoMemory() Use {
	const live, stacks, limit, cycles = 0, 1, 2, 3
	samples := []metrics.Sample{
		live:   {Name: "/gc/heap/live:bytes"},
		stacks: {Name: "/memory/classes/heap/stacks:bytes"},
		limit:  {Name: "/gc/gomemlimit:bytes"},
		cycles: {Name: "/gc/cycles/total:gc-cycles"},
	}
	var seen uint64
	var collected time.Time
	return func(fresh bool) (int64, int64) {
		metrics.Read(samples)
		if now := time.Now(); samples[cycles].Value.Uint64() != seen {
			seen, collected = samples[cycles].Value.Uint64(), now
		} else if fresh && now.Sub(collected) >= collectEvery {
			runtime.GC()
			metrics.Read(samples)
			seen, collected = samples[cycles].Value.Uint64(), now
		}
		most := samples[limit].Value.Uint64()
		if most == math.MaxInt64 {
			most = 0
		}
		return int64(samples[live].Value.Uint64() + samples[stacks].Value.Uint64()), int64(most)
	}
}
