package access

import (
	"context"
	"hash/maphash"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"time"

	"realtimehub/internal/fair"
	"realtimehub/internal/quota"
)

// How many tokens may wait for their signature's check, and how many are remembered.
const (
	proofPatience = 2 * time.Second // so long one of a suspect network waits, then it is to come back
	proofPlaces   = 4096            // that are being proven or wait, half of them for one network; as many wait for keys
	mostSuspects  = 1 << 14         // lanes; those that come later count as two, one for each kind
	mostGood      = 1 << 15         // tokens that were good, twice as many at most
	mostAway      = 1 << 14         // tokens that are to come back, likewise
	forgiveEvery  = 10 * time.Second
	forgiveFull   = time.Second // where there is no room for another suspect
)

// proofs bounds the cost of refusing bad tokens: to check a signature of P-521 takes
// milliseconds, and anybody can send one. A network that sent too many bad tokens is a
// suspect: its tokens wait for each other, and one that would wait too long is told to come
// back. A good token does come back, and then waits only for others that did: whoever makes
// tokens up makes up new ones. A token that was good before never waits.
type proofs struct {
	// Static.
	perSecond float64 // that may fail, of a network; 0: any number
	logger    *slog.Logger
	turns     *fair.Semaphore[string]
	places    *quota.Pool[string]
	apart     *quota.Pool[string] // those that wait for others than each other
	seed      maphash.Seed

	mu sync.Mutex
	// Guarded by mu.
	suspects map[lane]*suspect // those that owe
	forgiven time.Time         // when suspects were looked through
	good     recent            // tokens that were good
	away     recent            // tokens that are to come back, and when
	told     time.Time         // when the log was
	untold   int               // since then
}

func newProofs(perSecond float64, logger *slog.Logger) *proofs {
	return &proofs{
		perSecond: perSecond, logger: logger,
		turns:  fair.NewSemaphore(quota.New[string](int64(max(runtime.GOMAXPROCS(0)/2, 1)), 0)), // the rest is for what is proven
		places: quota.New[string](proofPlaces, 1), apart: quota.New[string](proofPlaces, 1), seed: maphash.MakeSeed(),
		suspects: map[lane]*suspect{}, good: newRecent(mostGood), away: newRecent(mostAway),
	}
}

// proof is one token that is being proven.
type proof struct {
	of      *proofs
	from    string
	lane    lane
	token   uint64
	good    bool // before: it needs no turn
	entered bool // it is in
	checked bool // its signature was, or its key was looked for
	paid    bool // it has waited for what its network owes
}

// begin takes a place until end is called. It returns false if there is none.
func (p *proofs) begin(from string, token string) (*proof, bool) {
	t := &proof{of: p, from: from, token: maphash.String(p.seed, token)}
	p.mu.Lock()
	_, t.good = p.good.get(t.token)
	due, away := p.away.get(t.token)
	p.mu.Unlock()
	t.lane = lane{from, away && time.Now().UnixMilli() >= due}
	if !t.good && !p.places.Take(from, 1) {
		p.refused(t, time.Second)
		return nil, false
	}
	return t, true
}

// enter waits until the token's signature may be checked, and then returns 0: the caller
// must call leave. Otherwise it returns when the token is to come back.
func (p *proof) enter(ctx context.Context) (after time.Duration) {
	if p.good {
		p.checked = true
		return 0
	}
	for {
		if p.of.turns.Acquire(ctx, p.from) != nil {
			return time.Second // nobody is left to be told
		}
		var wait time.Duration
		if !p.paid {
			wait = p.of.owed(p.lane)
		}
		if wait == 0 {
			p.checked, p.entered = true, true
			return 0
		}
		p.of.turns.Release(p.from)
		if wait > proofPatience {
			p.of.refused(p, wait)
			return wait
		}
		p.paid = true
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return time.Second
		}
	}
}

// leave lets the next one in.
func (p *proof) leave() {
	if p.entered {
		p.entered = false
		p.of.turns.Release(p.from)
	}
}

// apart waits until over is closed, which takes a question over the network. Meanwhile the
// place is free for tokens that need not wait. It returns false if ctx ends first, or if too
// many wait.
func (p *proof) apart(ctx context.Context, over <-chan struct{}) bool {
	all := p.of
	if !all.apart.Take(p.from, 1) {
		return false
	}
	defer all.apart.Give(p.from, 1)
	if !p.good {
		all.places.Give(p.from, 1)
		defer all.places.Force(p.from, 1)
	}
	select {
	case <-over:
		return true
	case <-ctx.Done():
		return false
	}
}

// end gives the place back. A token that failed is charged to its network; a good one is not.
func (p *proof) end(good bool) {
	all := p.of
	if !p.good {
		all.places.Give(p.from, 1)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	failed := p.checked && !good
	if failed && !p.paid {
		all.changeLocked(p.lane, -1)
	} else if p.paid && !failed {
		all.changeLocked(p.lane, 1)
	}
	if good {
		all.good.put(p.token, 0)
	} else if failed {
		all.good.delete(p.token)
		all.away.delete(p.token)
	}
}

// lane is a line of tokens that wait for each other: those of a network that came back when
// they were told to, or all its others.
type lane struct {
	from string
	back bool
}

// suspect is how many bad tokens a network may still send, as of a time. Below one, its
// tokens wait.
type suspect struct {
	left float64
	at   time.Time
}

// owed is how long a token of a lane has to wait, or 0. If it is worth waiting, the token's
// place in the line is taken.
func (p *proofs) owed(in lane) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.forgiveLocked(now)
	s := p.suspects[p.keyLocked(in)]
	if s == nil || s.fill(p.perSecond, now) >= 1 {
		return 0
	}
	wait := time.Duration(min((1-s.left)/p.perSecond, 1e9) * float64(time.Second))
	if wait <= proofPatience {
		s.left--
	}
	return max(wait, 1)
}

func (p *proofs) changeLocked(in lane, by float64) {
	if p.perSecond <= 0 {
		return
	}
	now := time.Now()
	p.forgiveLocked(now)
	key := p.keyLocked(in)
	s := p.suspects[key]
	if s == nil {
		s = &suspect{p.burst(), now}
		p.suspects[key] = s
	}
	s.left = max(min(s.fill(p.perSecond, now)+by, p.burst()), -p.perSecond*proofPatience.Seconds())
}

// burst is how many may fail at once: one second's worth.
func (p *proofs) burst() float64 { return max(math.Floor(p.perSecond), 1) }

func (s *suspect) fill(perSecond float64, now time.Time) float64 {
	s.left = min(s.left+now.Sub(s.at).Seconds()*perSecond, max(math.Floor(perSecond), 1))
	s.at = now
	return s.left
}

// keyLocked is the lane, or the one that stands for all of its kind there is no room for.
func (p *proofs) keyLocked(in lane) lane {
	if p.suspects[in] == nil && len(p.suspects) >= mostSuspects {
		return lane{back: in.back}
	}
	return in
}

// forgiveLocked forgets suspects that owe nothing any more, now and then.
func (p *proofs) forgiveLocked(now time.Time) {
	every := forgiveEvery
	if len(p.suspects) >= mostSuspects {
		every = forgiveFull
	}
	if now.Sub(p.forgiven) < every {
		return
	}
	p.forgiven = now
	for in, s := range p.suspects {
		if s.fill(p.perSecond, now) >= p.burst() {
			delete(p.suspects, in)
		}
	}
	if len(p.suspects) == 0 {
		p.suspects = map[lane]*suspect{} // a map never shrinks
	}
}

// refused notes that a token was told to come back, and logs that once a second.
func (p *proofs) refused(t *proof, after time.Duration) {
	p.mu.Lock()
	now := time.Now()
	if due, away := p.away.get(t.token); !away || now.UnixMilli() >= due { // who comes early is not put off
		p.away.put(t.token, now.Add(after).UnixMilli())
	}
	p.untold++
	times := p.untold
	due := now.Sub(p.told) >= time.Second
	if due {
		p.told, p.untold = now, 0
	}
	p.mu.Unlock()
	if due {
		p.logger.Warn("tokens were turned away unchecked: too many invalid ones came from this network", "network", t.from, "times", times, "variable", "REALTIME_FAILED_TOKEN_RATE")
	}
}

// recent remembers the values that were put last: at least so many, and at most twice as many.
type recent struct {
	most        int
	now, before map[uint64]int64
}

func newRecent(most int) recent { return recent{most: most, now: map[uint64]int64{}} }

func (r *recent) get(key uint64) (value int64, there bool) {
	if value, there = r.now[key]; !there {
		value, there = r.before[key]
	}
	return value, there
}

func (r *recent) put(key uint64, value int64) {
	if _, there := r.now[key]; !there && len(r.now) >= r.most {
		r.before, r.now = r.now, map[uint64]int64{}
	}
	r.now[key] = value
}

func (r *recent) delete(key uint64) {
	delete(r.now, key)
	delete(r.before, key)
}
