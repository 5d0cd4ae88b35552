package delivery

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"realtimehub/internal/count"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/history"
	"realtimehub/internal/overload"
	"realtimehub/internal/pace"
	"realtimehub/internal/quota"
	"realtimehub/internal/sse"
)

// Observer is told, with no lock held, of connections that come and go: of each
// once, after it was admitted and before its tenant has it; and of none that is refused.
type Observer interface {
	Connected(*Connection)
	Disconnected(*Connection)
}

// Streams are a hub's open ones: each comes in through Connect, and ends once.
type Streams struct {
	// Static after the start.
	words    frames
	tenants  *Tenants
	members  *Members
	engine   *engine.Engine
	observer Observer
	log      history.Log
	node     [4]byte // its mark in the ids of its connections, unless it is alone
	shed     *engine.Frame
	inline   bool // what a client missed may begin before its head is written
	logger   *slog.Logger

	// These guard themselves.
	open      directory
	overload  *overload.Guard
	away      *overload.Returns
	opening   *fair.Semaphore[string] // of tenants, by Connect
	expiry    expiry
	count     *Counts
	turnedOff rate.Sometimes
	crowded   sync.Once
	cuts      count.Words[CloseReason] // that no log line has told of
	cutting   pace.Reporter
	relief    struct{ shed, cut, owed atomic.Int64 } // likewise, but for owed
	relieving pace.Reporter

	drained chan struct{} // closed by Refuse
	endOnce sync.Once
}

// start makes the engine that writes them.
func (x *Streams) start(cfg engine.Config, use overload.Use, kept func() int64) {
	x.openAtOnce(8 * runtime.GOMAXPROCS(0)) // more would only wait for the processors
	x.expiry.warn, x.expiry.end = x.expiring, x.expired
	x.turnedOff.Interval = time.Second
	x.cuts = count.NewWords(CloseSlow, CloseNoisy)
	x.cutting.Say = func() {
		for reason, n := range x.cuts {
			if n := n.Swap(0); n > 0 {
				x.logger.Warn("streams cut", "reason", string(reason), "streams", n)
			}
		}
	}
	x.relieving.Say = func() {
		x.logger.Warn("memory budget: those who do not read were relieved", "budget", cfg.Budget,
			"shed", x.relief.shed.Swap(0), "cut", x.relief.cut.Swap(0), "owed", x.relief.owed.Load())
	}
	cfg.Relieved = x.relieved
	x.shed = shedFrame()
	cfg.Shed, cfg.Cut = x.shed, func() *engine.Frame { return x.words.Closing(CloseSlow) }
	cfg.Beat = engine.NewFrame([]byte(sse.Comment), true)
	x.engine = engine.NewEngine(cfg)
	x.overload = overload.New(use, kept, x.engine.Relieve, x.logger)
	x.away = overload.NewReturns()
}

// openAtOnce is how many streams are opened at a time, of one tenant half of them.
func (x *Streams) openAtOnce(n int) { x.opening = fair.NewSemaphore(quota.New[string](int64(n), 1)) }

// relieved is the engine's word of what it took to keep to the memory budget.
func (x *Streams) relieved(r engine.Relief) {
	x.relief.shed.Add(int64(r.Shed))
	x.relief.cut.Add(int64(r.Cut))
	x.relief.owed.Store(r.Owed)
	x.relieving.Tell()
}

// Observe names who is told of connections.
func (x *Streams) Observe(o Observer) { x.observer = o }

// Connection finds an open connection of this hub, whichever tenant's; nil when there is
// none, or the text is no id.
func (x *Streams) Connection(id string) *Connection { return x.open.Connection(id) }

// ByID is Connection of an id that was read.
func (x *Streams) ByID(id uuid.UUID) *Connection { return x.open.connection(id) }

// Draining says that no new stream is taken.
func (x *Streams) Draining() bool { return x.open.Draining() }

// Closing is a stream's last words.
func (x *Streams) Closing(reason CloseReason) *engine.Frame { return x.words.Closing(reason) }

// ClosingFor is Closing for a client that is to stay away for some time.
func (x *Streams) ClosingFor(reason CloseReason, after time.Duration) *engine.Frame {
	return x.words.ClosingFor(reason, after)
}

// Overloaded says that hardly any memory is left, and nothing more is taken.
func (x *Streams) Overloaded() bool { return x.overload.Overloaded() }

// WatchMemory looks at the memory in use until ctx ends.
func (x *Streams) WatchMemory(ctx context.Context) { x.overload.WatchMemory(ctx) }

// shareWith makes the hub one of a cluster, in which its connections' ids have a mark of
// its own, before its first connection.
func (x *Streams) shareWith(node [4]byte) {
	x.node = node
	x.openAtOnce(512) // each may wait for the broker
}

// Engine writes the streams of this hub.
func (x *Streams) Engine() *engine.Engine { return x.engine }

// Turned is why a client is turned away, as it is told, after an error of Connect.
func Turned(err error) CloseReason {
	switch {
	case errors.Is(err, ErrDraining):
		return CloseDrain
	case errors.Is(err, history.ErrUnconfirmed), errors.Is(err, history.ErrNotStored):
		return CloseUnavailable
	}
	return CloseCapacity
}

// Away is how long a client stays away that was turned away for an error, beside what
// every one waits.
func (x *Streams) Away(tenant string, err error) time.Duration {
	if errors.Is(err, ErrDraining) {
		return 0 // another hub has room
	}
	after := x.away.After(tenant, !errors.Is(err, ErrTenantFull))
	if errors.Is(err, overload.ErrOverloaded) {
		after += overload.Away
	}
	return overload.Jittered(after)
}

// TurnAway counts a stream that is not taken, and returns err.
func (x *Streams) TurnAway(tenant string, err error) error {
	why := Turned(err)
	x.count.Refused(why)
	if why == CloseDrain {
		return err
	}
	x.turnedOff.Do(func() {
		x.logger.Warn("stream refused", "reason", string(why), "tenant", tenant, "err", err)
	})
	return err
}

// Prolong has a connection end at another time; at zero not by itself. It says whether
// the connection was there still.
func (x *Streams) Prolong(c *Connection, expires time.Time) bool {
	t := x.tenants.find(c.Tenant)
	if t == nil {
		return false
	}
	defer t.mu.Unlock()
	if !c.removed {
		x.expiry.set(c, expires)
	}
	return !c.removed
}

// Adjust gives a connection another filter or watch list; nil leaves it. It says
// whether the connection was there still. allowance.ErrTenant, allowance.ErrPerson: it has what it
// had.
func (x *Streams) Adjust(c *Connection, types **event.Filter, watch *[]event.Profile) (found bool, err error) {
	t := x.tenants.find(c.Tenant)
	if t == nil {
		return false, nil
	}
	defer t.mu.Unlock()
	if c.removed {
		return false, nil
	}
	filter, list := c.filter, c.watchList()
	if types != nil {
		filter = *types
	}
	if watch != nil {
		list = *watch
	}
	if err := t.keepLocked(c, weigh(filter, list, c.Metadata), list); err != nil {
		return true, err
	}
	c.filter = filter
	if watch != nil {
		t.watchLocked(c, list)
	}
	t.settleLocked()
	return true, nil
}

// Connections are a tenant's of this hub, or one profile's, in no order.
func (x *Streams) Connections(tenant string, of *event.Profile) []*Connection {
	t := x.tenants.find(tenant)
	if t == nil {
		return nil
	}
	list := t.conns
	if of != nil {
		list = nil
		if p := t.rooms.Person(*of); p != nil {
			list = p.Conns()
		}
	}
	defer t.mu.Unlock()
	return slices.Clone(list)
}
