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
)

// Observer is told, with no lock held, of connections that come and go: of each
// once, after it was admitted and before its tenant has it; and of none that is refused.
type Observer interface {
	Connected(*Connection)
	Again(*Connection) // one is there still whose client has asked again
	Disconnected(*Connection)
}

// Streams are a hub's open ones: each comes in through Connect, and ends once.
type Streams struct {
	// Static after the start.
	retry     time.Duration
	heartbeat time.Duration
	tenants   *Tenants
	members   *Members
	engine    *engine.Engine
	observer  Observer
	reporter  Reporter // nil: nobody
	log       history.Log
	node      *Node  // nil: the hub is alone
	inline    bool   // what a client missed may begin before its head is written
	duties    Duties // nil: nobody acknowledges anything
	logger    *slog.Logger

	// These guard themselves.
	encoders  sync.Map // Encoding → *Encoder
	open      directory
	overload  *overload.Guard
	away      *overload.Returns
	opening   *fair.Semaphore[string] // of tenants, by Connect
	expiry    *expiry
	timeouts  *timeouts
	lately    lately // owed an acknowledgement
	unheard   lately // their clients may not know it
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
func (s *Streams) start(cfg engine.Config, use overload.Use, kept func() int64) {
	atOnce := 8 * runtime.GOMAXPROCS(0) // more would only wait for the processors
	if s.node != nil {
		atOnce = 512 // each may wait for the broker
	}
	s.openAtOnce(atOnce)
	s.turnedOff.Interval = time.Second
	s.cuts = count.NewWords(CloseSlow, CloseNoisy, CloseProtocol)
	s.cutting.Say = func() {
		for reason, n := range s.cuts {
			if n := n.Swap(0); n > 0 {
				s.logger.Warn("streams cut", "reason", string(reason), "streams", n)
			}
		}
	}
	s.relieving.Say = func() {
		s.logger.Warn("memory budget exceeded: slow streams lost ephemeral events or were cut", "budget", cfg.Budget,
			"shed", s.relief.shed.Swap(0), "cut", s.relief.cut.Swap(0), "owed", s.relief.owed.Load())
	}
	cfg.Relieved = s.relieved
	s.engine = engine.NewEngine(cfg)
	s.overload = overload.New(use, kept, s.engine.Relieve, s.logger)
	s.away = overload.NewReturns()
}

// openAtOnce is how many streams are opened at a time, of one tenant half of them.
func (s *Streams) openAtOnce(n int) { s.opening = fair.NewSemaphore(quota.New[string](int64(n), 1)) }

// relieved is the engine's word of what it took to keep to the memory budget.
func (s *Streams) relieved(r engine.Relief) {
	s.relief.shed.Add(int64(r.Shed))
	s.relief.cut.Add(int64(r.Cut))
	s.relief.owed.Store(r.Owed)
	s.relieving.Tell()
}

// Observe names who is told of connections, before the first one. That needs what New makes,
// as it ends connections and tells their streams: so New cannot be given it.
func (s *Streams) Observe(o Observer) { s.observer = o }

// Connection finds an open connection of this hub, whichever tenant's; nil when there is
// none, or the text is no id.
func (s *Streams) Connection(id string) *Connection { return s.open.Connection(id) }

// ByID is Connection of an id that was read.
func (s *Streams) ByID(id uuid.UUID) *Connection { return s.open.connection(id) }

// Draining says that no new stream is taken.
func (s *Streams) Draining() bool { return s.open.Draining() }

// Overloaded says that hardly any memory is left, and nothing more is taken.
func (s *Streams) Overloaded() bool { return s.overload.Overloaded() }

// WatchMemory looks at the memory in use until ctx ends.
func (s *Streams) WatchMemory(ctx context.Context) { s.overload.WatchMemory(ctx) }

// Heartbeat is how often a silent stream has one; zero: never.
func (s *Streams) Heartbeat() time.Duration { return s.heartbeat }

// Engine writes the streams of this hub.
func (s *Streams) Engine() *engine.Engine { return s.engine }

// TurnedAway is why a client gets no stream, as it is told on one.
type TurnedAway struct {
	Reason  CloseReason
	After   time.Duration // how long it is to stay away, beside what every one waits
	Problem []byte        // JSON of what it was refused for; nil: the reason says it all
}

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
func (s *Streams) Away(tenant string, err error) time.Duration {
	if errors.Is(err, ErrDraining) {
		return 0 // another hub has room
	}
	after := s.away.After(tenant, !errors.Is(err, ErrTenantFull))
	if errors.Is(err, overload.ErrOverloaded) {
		after += overload.Away
	}
	return overload.Jittered(after)
}

// TurnAway counts a stream that is not taken, and returns err.
func (s *Streams) TurnAway(tenant string, err error) error {
	why := Turned(err)
	s.count.refused.Add(why, 1)
	if why == CloseDrain {
		return err
	}
	s.turnedOff.Do(func() {
		s.logger.Warn("stream refused", "reason", string(why), "tenant", tenant, "err", err)
	})
	return err
}

// Refused counts a stream that is not opened for what its client asked or sent, where its door tells
// so on the stream, or cannot.
func (s *Streams) Refused(why CloseReason, err error) {
	s.count.refused.Add(why, 1)
	s.logger.Debug("stream refused", "reason", string(why), "err", err)
}

// Prolong has a connection end at another time; at zero not by itself. It says whether
// the connection was there still.
func (s *Streams) Prolong(c *Connection, expires time.Time) bool {
	t := s.tenants.find(c.Tenant)
	if t == nil {
		return false
	}
	defer t.mu.Unlock()
	if !c.removed && !c.restsLocked() {
		s.expiry.set(c, expires)
	}
	return !c.removed
}

// Adjust gives a connection another filter or watch list; nil leaves it. It says
// whether the connection was there still. allowance.ErrTenant, allowance.ErrPerson: it has what it
// had.
func (s *Streams) Adjust(c *Connection, types **event.Filter, watch *[]event.Profile) (found bool, err error) {
	t := s.tenants.find(c.Tenant)
	if t == nil {
		return false, nil
	}
	defer t.mu.Unlock()
	if c.removed {
		return false, nil
	}
	t.hearLocked(c) // what was before this is by the old ones
	filter, list := c.filter, c.watchList()
	if types != nil {
		filter = *types
	}
	if watch != nil {
		list = *watch
	}
	if err := t.keepLocked(c, c.weigh(filter, list), list); err != nil {
		return true, err
	}
	c.filter = filter
	if types != nil && c.acks != nil {
		at := t.sentLocked(c)
		c.acks.turnLocked(at, at)
	}
	if types != nil && c.restsLocked() {
		c.linger.adjusted = true
	}
	if watch != nil {
		t.watchLocked(c, list)
	}
	t.settleLocked()
	return true, nil
}

// Say has a connection's client told answers of its encoding, which is Answering. It says whether
// there is such a connection.
func (s *Streams) Say(c *Connection, records []byte) (found bool) {
	of, ok := c.encoder.encoding.(Answering)
	if !ok || s.ByID(c.ID) != c {
		return false
	}
	var d engine.Batch
	d.Send(c.Stream, engine.NewFrame(of.AppendRecords(nil, records), false))
	d.Flush()
	return true
}

// Connections are a tenant's of this hub, or one profile's, in no order.
func (s *Streams) Connections(tenant string, of *event.Profile) []*Connection {
	t := s.tenants.find(tenant)
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

// Reporter is told of this hub's own connections as an Observer is, and why each has ended.
type Reporter interface {
	Opened(*Connection)
	Closed(*Connection, CloseReason)
}

// opened tells of a connection that comes.
func (s *Streams) opened(c *Connection) {
	if s.reporter != nil {
		s.reporter.Opened(c)
	}
	s.observer.Connected(c)
}

// closed tells of a connection that has gone.
func (s *Streams) closed(c *Connection, reason CloseReason) {
	s.observer.Disconnected(c)
	if s.reporter != nil {
		s.reporter.Closed(c, reason)
	}
}
