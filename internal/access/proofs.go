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

// What may wait, and what is remembered, of tokens whose signature is to be checked.
const (
	ProofPatience = 2 * time.Second // so long one of a suspect network waits, then it is to come back
	ProofPlaces   = 4096            // that are being proven or wait, half of them for one network; as many wait for keys
	MostSuspects  = 1 << 14         // networks; those that come later count as one
	MostGood      = 1 << 15         // tokens that were good, twice as many at most
	MostAway      = 1 << 14         // tokens that are to come back, likewise
	ForgiveEvery  = 10 * time.Second
)

// proofs bound what it costs to find out that tokens are not good: with a key of P-521
// a signature takes milliseconds, and anybody can send one. Networks from which too many
// came are suspect: theirs wait, one after the other, and those for which that is too long
// are to come back. A good one among them does, and then waits only for others that have:
// who makes up tokens makes up others. A token that was good before never waits.
type proofs struct {
	// Static.
	perSecond float64 // that may fail, of a network; 0: any number
	logger    *slog.Logger
	turns     *fair.Semaphore[string]
	Places    *quota.Pool[string]
	Apart     *quota.Pool[string] // those that wait for others than each other
	seed      maphash.Seed

	mu sync.Mutex
	// Guarded by mu.
	Suspects map[lane]*suspect // those that owe
	forgiven time.Time         // when suspects were looked through
	Good     recent            // tokens that were good
	Away     recent            // tokens that are to come back, and when
	told     time.Time         // when the log was
	untold   int               // since then
}

func NewProofs(perSecond float64, logger *slog.Logger) *proofs {
	return &proofs{
		perSecond: perSecond, logger: logger,
		turns:  fair.NewSemaphore(quota.New[string](int64(max(runtime.GOMAXPROCS(0)/2, 1)), 0)), // the rest is for what is proven
		Places: quota.New[string](ProofPlaces, 1), Apart: quota.New[string](ProofPlaces, 1), seed: maphash.MakeSeed(),
		Suspects: map[lane]*suspect{}, Good: newRecent(MostGood), Away: newRecent(MostAway),
	}
}

// Proof is one token that is being proven.
type Proof struct {
	of      *proofs
	from    string
	lane    lane
	Token   uint64
	good    bool // before: it needs no turn
	entered bool // it is in
	checked bool // its signature was, or its key was looked for
	paid    bool // it has waited for what its network owes
}

// Begin takes a place, until end; false where there is none.
func (p *proofs) Begin(from string, token string) (*Proof, bool) {
	t := &Proof{of: p, from: from, Token: maphash.String(p.seed, token)}
	p.mu.Lock()
	_, t.good = p.Good.get(t.Token)
	due, away := p.Away.get(t.Token)
	p.mu.Unlock()
	t.lane = lane{from, away && time.Now().UnixMilli() >= due}
	if !t.good && !p.Places.Take(from, 1) {
		p.Refused(t, time.Second)
		return nil, false
	}
	return t, true
}

// Enter waits until the token's signature may be checked; then leave is to follow. Else it
// says when to come back.
func (t *Proof) Enter(ctx context.Context) (after time.Duration) {
	if t.good {
		t.checked = true
		return 0
	}
	for {
		if t.of.turns.Acquire(ctx, t.from) != nil {
			return time.Second // nobody is left to be told
		}
		var wait time.Duration
		if !t.paid {
			wait = t.of.owed(t.lane)
		}
		if wait == 0 {
			t.checked, t.entered = true, true
			return 0
		}
		t.of.turns.Release(t.from)
		if wait > ProofPatience {
			t.of.Refused(t, wait)
			return wait
		}
		t.paid = true
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return time.Second
		}
	}
}

// Leave lets the next one in.
func (t *Proof) Leave() {
	if t.entered {
		t.entered = false
		t.of.turns.Release(t.from)
	}
}

// apart waits for something to be over that a network is between: without the place,
// which is for those who need not. It says whether it is over: not where ctx has ended, or
// too many wait.
func (t *Proof) apart(ctx context.Context, over <-chan struct{}) bool {
	p := t.of
	if !p.Apart.Take(t.from, 1) {
		return false
	}
	defer p.Apart.Give(t.from, 1)
	if !t.good {
		p.Places.Give(t.from, 1)
		defer p.Places.Force(t.from, 1)
	}
	select {
	case <-over:
		return true
	case <-ctx.Done():
		return false
	}
}

// End gives the place back. What has failed is owed; what was good never counts.
func (t *Proof) End(good bool) {
	p := t.of
	if !t.good {
		p.Places.Give(t.from, 1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := t.checked && !good
	if failed && !t.paid {
		p.changeLocked(t.lane, -1)
	} else if t.paid && !failed {
		p.changeLocked(t.lane, 1)
	}
	if good {
		p.Good.put(t.Token, 0)
	} else if failed {
		p.Good.delete(t.Token)
		p.Away.delete(t.Token)
	}
}

// lane is whose tokens wait for each other: all of a network, but for those that have come
// back when they were to.
type lane struct {
	from string
	back bool
}

// suspect is what a network may still have checked, as of a time; less than one is a
// debt.
type suspect struct {
	left float64
	at   time.Time
}

// owed is how long one of a network has to wait, and if it is worth it, its place in
// that line; 0: it need not.
func (p *proofs) owed(in lane) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.ForgiveLocked(now)
	s := p.Suspects[p.keyLocked(in)]
	if s == nil || s.fill(p.perSecond, now) >= 1 {
		return 0
	}
	wait := time.Duration(min((1-s.left)/p.perSecond, 1e9) * float64(time.Second))
	if wait <= ProofPatience {
		s.left--
	}
	return max(wait, 1)
}

func (p *proofs) changeLocked(in lane, by float64) {
	if p.perSecond <= 0 {
		return
	}
	now := time.Now()
	p.ForgiveLocked(now)
	key := p.keyLocked(in)
	s := p.Suspects[key]
	if s == nil {
		s = &suspect{p.burst(), now}
		p.Suspects[key] = s
	}
	s.left = max(min(s.fill(p.perSecond, now)+by, p.burst()), -p.perSecond*ProofPatience.Seconds())
}

// burst is how many may fail at once: one second's worth.
func (p *proofs) burst() float64 { return max(math.Floor(p.perSecond), 1) }

func (s *suspect) fill(perSecond float64, now time.Time) float64 {
	s.left = min(s.left+now.Sub(s.at).Seconds()*perSecond, max(math.Floor(perSecond), 1))
	s.at = now
	return s.left
}

// keyLocked is the lane, or what stands for all that there is no room for.
func (p *proofs) keyLocked(in lane) lane {
	if p.Suspects[in] == nil && len(p.Suspects) >= MostSuspects {
		return lane{}
	}
	return in
}

// ForgiveLocked forgets now and then who owes nothing.
func (p *proofs) ForgiveLocked(now time.Time) {
	if now.Sub(p.forgiven) < ForgiveEvery {
		return
	}
	p.forgiven = now
	for in, s := range p.Suspects {
		if s.fill(p.perSecond, now) >= p.burst() {
			delete(p.Suspects, in)
		}
	}
	if len(p.Suspects) == 0 {
		p.Suspects = map[lane]*suspect{} // a map never shrinks
	}
}

// Refused has a token come back, and tells the log, once a second.
func (p *proofs) Refused(t *Proof, after time.Duration) {
	p.mu.Lock()
	now := time.Now()
	if due, away := p.Away.get(t.Token); !away || now.UnixMilli() >= due { // who comes early is not put off
		p.Away.put(t.Token, now.Add(after).UnixMilli())
	}
	p.untold++
	times := p.untold
	due := now.Sub(p.told) >= time.Second
	if due {
		p.told, p.untold = now, 0
	}
	p.mu.Unlock()
	if due {
		p.logger.Warn("tokens are told to come back: too many from there could not be proven", "network", t.from, "times", times, "variable", "REALTIME_FAILED_TOKEN_RATE")
	}
}

// recent remembers what was put last: so many for certain, twice as many at most.
type recent struct {
	most        int
	Now, Before map[uint64]int64
}

func newRecent(most int) recent { return recent{most: most, Now: map[uint64]int64{}} }

func (r *recent) get(key uint64) (value int64, there bool) {
	if value, there = r.Now[key]; !there {
		value, there = r.Before[key]
	}
	return value, there
}

func (r *recent) put(key uint64, value int64) {
	if _, there := r.Now[key]; !there && len(r.Now) >= r.most {
		r.Before, r.Now = r.Now, map[uint64]int64{}
	}
	r.Now[key] = value
}

func (r *recent) delete(key uint64) {
	delete(r.Now, key)
	delete(r.Before, key)
}
