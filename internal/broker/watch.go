package broker

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"realtimehub/internal/broker/dialer"
	"realtimehub/internal/broker/journal"
	"realtimehub/internal/count"
	"realtimehub/internal/history"
)

// watch watches over the connection to NATS: what is wrong with it is counted and
// logged; from a server that can do nothing it moves to another that can; and where it ends
// for good that is said, as nothing would bring it back.
type watch struct {
	// Static once it has begun.
	access  []nats.Option // to any server
	logger  *slog.Logger
	nc      *nats.Conn
	journal *journal.Journal
	over    chan error // has room for one: why the connection has ended, other than by us
	ended   chan struct{}

	faults          count.Words[history.Fault]
	closing         atomic.Bool // by us
	refused         atomic.Pointer[error]
	to              atomic.Pointer[destination]
	said, unreached rate.Sometimes

	// Owned by run.
	known []string // the servers, when all was well
	moved time.Time
}

const (
	dialTime      = time.Second
	sendTime      = time.Second // that a server which does not read may hold up all who send: the library locks the connection while it writes
	reconnectWait = 100 * time.Millisecond
	stuckFor      = 3 * time.Second // nothing could be changed, and another server is looked for
	moveTime      = 3 * time.Second // that a move may take
	openTime      = 8 * time.Second // that a server may take at the start to do what it is asked; an election takes as long
)

func newWatch(access []nats.Option, logger *slog.Logger) *watch {
	return &watch{
		access: append(access, nats.Timeout(dialTime), nats.FlusherTimeout(sendTime)), logger: logger,
		over: make(chan error, 1), ended: make(chan struct{}),
		faults: count.NewWords(history.FaultHistory, history.FaultMembership, history.FaultRefused, history.FaultMoved, history.FaultUnread, history.FaultOther),
		said:   rate.Sometimes{Interval: time.Second}, unreached: rate.Sometimes{Interval: 5 * time.Second},
	}
}

// options are for a connection that is watched.
func (w *watch) options(url string) []nats.Option {
	options := append(slices.Clip(w.access),
		nats.IgnoreAuthErrorAbort(), // or the second refusal is the end
		nats.ErrorHandler(w.complain),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { w.away(err) }), // LastError does not know
		nats.ClosedHandler(func(nc *nats.Conn) {
			if err := cmp.Or(nc.LastError(), nats.ErrConnectionClosed); !w.closing.Load() {
				w.logger.Error("store: the connection has ended for good", "err", err)
				w.over <- err
			}
		}),
		nats.ReconnectToServer(func(servers []nats.Server, _ nats.ServerInfo) (*nats.Server, time.Duration) {
			to := w.to.Load()
			if to == nil || time.Now().After(to.until) {
				return nil, 0 // as it comes
			}
			i := slices.IndexFunc(servers, func(s nats.Server) bool { return s.URL.String() == to.url })
			if i < 0 {
				return nil, 0
			}
			return &servers[i], reconnectWait / 2
		}),
	)
	if !strings.HasPrefix(url, "ws") { // whose servers do not speak first
		options = append(options, nats.SetCustomDialer(&dialer.Dialer{Timeout: dialTime}), nats.SkipHostLookup())
	}
	return append(options, dialer.Whole)
}

// away tells why a server cannot be connected to.
func (w *watch) away(err error) {
	if !errors.Is(err, dialer.ErrDialing) {
		w.refused.Store(&err)
		w.unreached.Do(func() { w.logger.Warn("store: cannot connect to a server", "err", err) })
	}
}

// complain tells of what a server, or the library, has to say.
func (w *watch) complain(nc *nats.Conn, sub *nats.Subscription, err error) {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			w.faults.Add(history.FaultRefused, 1)
			w.away(err)
			return
		}
	}
	if !nc.IsConnected() || endsConnection(err) {
		w.away(err)
		return
	}
	w.faults.Add(history.FaultOther, 1)
	w.said.Do(func() {
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		w.logger.Warn("store: the connection reported an error", "err", err, "subject", subject)
	})
}

// endsConnection says that an error is of a connection that has ended: who writes can be told
// before who reads, from whom the library knows it.
func endsConnection(err error) bool {
	_, ok := errors.AsType[*net.OpError](err)
	return ok
}

// why is why there is no connection yet.
func (w *watch) why(nc *nats.Conn) error {
	if err := w.refused.Load(); err != nil {
		return *err
	}
	return cmp.Or(nc.LastError(), errors.New("no answer yet"))
}

// begin watches from now on, until end.
func (w *watch) begin(nc *nats.Conn, j *journal.Journal) {
	w.nc, w.journal = nc, j
	go w.run()
}

// end comes before the connection is closed.
func (w *watch) end() {
	w.closing.Store(true)
	close(w.ended)
}

func (w *watch) run() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-w.ended:
			return
		case <-ticker.C:
		}
		switch stuck := w.journal.Stuck(); {
		case !w.nc.IsConnected():
		case stuck == 0:
			w.known = w.servers()
		case stuck > stuckFor && time.Since(w.moved) > moveTime:
			w.move()
		}
	}
}
