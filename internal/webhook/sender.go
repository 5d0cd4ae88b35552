package webhook

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/count"
	"realtimehub/internal/due"
	"realtimehub/internal/outbox"
	"realtimehub/internal/pace"
)

// Config is where a Sender sends what.
type Config struct {
	Box       outbox.Box
	Endpoint  *Endpoint
	Secrets   Secrets
	Transport http.RoundTripper // nil: HTTP
	Logger    *slog.Logger
}

const (
	gatherTime = 250 * time.Millisecond // for which a batch waits for more items
	lastTime   = 3 * time.Second        // for what is under way when the process ends
	askAgain   = time.Second            // after the outbox has failed

	// Tenants that are sent to at once. Those whose endpoint was slow or failed have a part of
	// the places, so that the others never wait for them.
	places     = 32
	slowPlaces = places / 2
	slowAfter  = time.Second
)

// Sender sends what is in an outbox, while it is this process's turn to.
type Sender struct {
	// Static.
	cfg    Config
	client *http.Client
	wake   chan struct{} // has something when who is due has changed

	answers                    count.Words[Answer]
	sent, repeated, lost, gone atomic.Int64
	failing, failingBox        pace.Counter // what goes wrong at the endpoint, and at the outbox

	mu sync.Mutex
	// Guarded by mu.
	lines   map[string]*line // by tenant
	lanes   [2]lane          // of those that were quick, and of the slow
	slow    slowTenants
	until   time.Time // nobody is sent to before
	ending  bool      // what has failed is not tried again
	stopped bool      // no tenant is sent to any more
}

// lane is the lines of which so many are sent at a time.
type lane struct {
	due     due.Queue[*line]
	places  int
	sending int
}

// line is a tenant with items that were not taken. Guarded by the Sender's mu, but for what the
// one attempt that is under way has: taken, noted, last, failures and late.
type line struct {
	tenant  string
	newest  uint64
	due     due.Item
	sending bool
	slow    bool // what late was when it was last queued
	stopped bool

	taken    uint64
	noted    uint64 // what the outbox knows of that
	last     uint64 // the place of the last item of the batch that has failed; 0: it was taken
	failures int    // one after the other
	late     bool   // the tenant's last attempt was slow or failed
}

// behind is how many items were not taken, as far as is known.
func (l *line) behind() uint64 {
	if l.taken >= l.newest {
		return 0
	}
	return l.newest - l.taken
}

// Due implements due.Owner.
func (l *line) Due() *due.Item { return &l.due }

// New makes a Sender.
func New(cfg Config) *Sender {
	return &Sender{
		cfg: cfg, client: newClient(cfg.Transport), wake: make(chan struct{}, 1), answers: count.NewWords(Answers()...),
		lines: map[string]*line{}, slow: newSlowTenants(),
	}
}

// Stats is what a Sender has done since the start.
type Stats struct {
	Answers  map[Answer]int64 // attempts
	Items    int64            // that were taken
	Repeated int64            // attempts that sent a batch again
	Lost     int64            // items that the outbox no longer had when it was their turn
	Stopped  int64            // endpoints that have answered 410
}

// Stats tells what was done; by nobody, nothing.
func (s *Sender) Stats() Stats {
	if s == nil {
		return Stats{}
	}
	return Stats{Answers: s.answers.Now(), Items: s.sent.Load(), Repeated: s.repeated.Load(), Lost: s.lost.Load(), Stopped: s.gone.Load()}
}

// Run sends until ctx ends, and then what was not tried yet, for a short time.
func (s *Sender) Run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	hold, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	leading := make(chan struct{}, 1)
	defer context.AfterFunc(ctx, func() {
		select {
		case leading <- struct{}{}: // another process sends
			end()
		default:
			time.AfterFunc(lastTime, end)
		}
	})()
	s.cfg.Box.Lead(hold, func(lead context.Context) {
		select {
		case leading <- struct{}{}:
		default: // it is over
			return
		}
		s.lead(lead, ctx.Done())
		<-leading
		if ctx.Err() != nil {
			end()
		}
	})
}

// lead sends until ctx ends, or all that was not tried yet is sent once over is closed.
func (s *Sender) lead(ctx context.Context, over <-chan struct{}) {
	s.begin()
	stop := s.follow(ctx, over)
	defer stop()
	var sending sync.WaitGroup
	defer sending.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, idle := s.start(ctx, &sending)
		if over == nil && idle {
			return
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-over:
			over = nil
			s.hurry()
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// begin forgets what was known when this process last sent, but for endpoints that are gone.
func (s *Sender) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.lines, func(_ string, l *line) bool { return !l.stopped })
	s.lanes = [2]lane{{places: places - slowPlaces}, {places: slowPlaces}}
}

// follow has the outbox tell of tenants; it asks until the outbox can.
func (s *Sender) follow(ctx context.Context, over <-chan struct{}) (stop func()) {
	for {
		stop, err := s.cfg.Box.Follow(ctx, s.more)
		if err == nil {
			return stop
		}
		s.boxFails(ctx, err)
		select {
		case <-time.After(askAgain):
		case <-over:
			return func() {}
		case <-ctx.Done():
			return func() {}
		}
	}
}

// more is told that a tenant has items which were not taken.
func (s *Sender) more(tenant string, taken, newest uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	l := s.lines[tenant]
	if l == nil {
		slow := s.slow.has(tenant)
		l = &line{tenant: tenant, taken: taken, noted: taken, newest: newest, slow: slow, late: slow}
		s.lines[tenant] = l
		s.dueLocked(l, gatherTime)
	}
	l.newest = max(l.newest, newest)
	if !l.sending && !l.stopped && l.failures == 0 && l.behind() >= batchItems {
		s.dueLocked(l, 0)
	}
}

// dueLocked has a line sent after some time, or earlier if it was due before.
func (s *Sender) dueLocked(l *line, after time.Duration) {
	at, queue := time.Now().Add(after), &s.laneOf(l).due
	if was := l.due.At(); !was.IsZero() && was.Before(at) {
		return
	}
	queue.Set(l, at)
	s.wakeUp()
}

func (s *Sender) laneOf(l *line) *lane {
	if l.slow {
		return &s.lanes[1]
	}
	return &s.lanes[0]
}

func (s *Sender) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hurry has all lines sent now that may be and have not failed, and the others not any more.
func (s *Sender) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for _, l := range s.lines {
		switch at := l.due.At(); {
		case at.IsZero():
		case l.failures > 0 || time.Now().Before(s.until):
			s.laneOf(l).due.Set(l, time.Time{})
		default:
			s.laneOf(l).due.Set(l, time.Now())
		}
	}
}

// start starts what is due, as far as there are places, and says after what time it is to be
// called again if nothing happens; idle: nothing is due or under way.
func (s *Sender) start(ctx context.Context, sending *sync.WaitGroup) (next time.Duration, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	next, idle = longestDelay, true
	for i := range s.lanes {
		lane := &s.lanes[i]
		for lane.sending < lane.places && !now.Before(s.until) {
			l, ok := lane.due.Next(now)
			if !ok {
				break
			}
			lane.due.Set(l, time.Time{})
			l.sending = true
			lane.sending++
			sending.Go(func() { s.send(ctx, l, lane) })
		}
		idle = idle && lane.due.Len() == 0 && lane.sending == 0
		if lane.sending < lane.places && lane.due.Len() > 0 {
			_, at := lane.due.First()
			next = min(next, max(at.Sub(now), s.until.Sub(now)))
		}
	}
	return next, idle
}
