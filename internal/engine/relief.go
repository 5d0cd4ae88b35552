package engine

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Percents of the budget.
const (
	budgetShed   = 75 // at which streams are relieved
	budgetAfter  = 60 // what is left then
	budgetScarce = 30 // what is left where memory is scarce for other reasons, too
	budgetStep   = 6  // by how much more must be owed for another look, when too much is left
)

// Relief is what was done for the budget at once.
type Relief struct {
	Shed, Cut int   // streams
	Owed      int64 // bytes that all streams owe after it
}

func percent(of int64, n int64) int64 { return of / 100 * n }

// relieve brings what all streams owe below the budget. A look is at every stream: so
// where that was not enough, it looks again when more is owed, or later.
func (e *Engine) relieve() {
	if e.cfg.Budget <= 0 || e.owed.Load() <= e.limit.Load() {
		return
	}
	e.relieveTo(percent(e.cfg.Budget, budgetAfter), func() bool { return e.owed.Load() > e.limit.Load() }) // nobody else has just looked
}

// Relieve is for who finds that memory is scarce, whatever holds it: it leaves less of
// what streams owe than their budget does.
func (e *Engine) Relieve() {
	left := percent(e.cfg.Budget, budgetScarce)
	e.relieveTo(left, func() bool { return left > 0 && e.owed.Load() > left })
}

func (e *Engine) relieveTo(left int64, due func() bool) {
	e.relieving.Lock()
	var did Relief
	if due() {
		did = e.ease(left)
		e.limit.Store(max(percent(e.cfg.Budget, budgetShed), did.Owed+percent(e.cfg.Budget, budgetStep)))
	}
	e.relieving.Unlock()
	if e.cfg.Relieved != nil && did.Shed+did.Cut > 0 {
		e.cfg.Relieved(did)
	}
}

// group is those streams whose owners say that they are of one.
type group struct {
	owed    int64 // by all of them
	blocked int64 // of that, by those that can be relieved
	debts   []debt
}

// debt is what one stream owes that can be relieved.
type debt struct {
	stream *Stream
	share  int64 // of the memory that its frames take
	reads  int   // 1: its client takes some of it, 0: nothing
}

// ease relieves streams until all owe no more than so much. Each group is left as much
// as if all had to share that, and who needs less left the rest to the others: so none
// pays for another. The group whose blocked streams owe most is relieved first, and of
// its streams those that do not read at all, the largest share of memory first: of each
// ephemeral frames are shed, and then streams cut.
func (e *Engine) ease(left int64) (did Relief) {
	groups := e.groups()
	each := level(groups, left)
	for _, g := range groups {
		relieve := func(ease func(*Stream) (freed int64, some bool)) (n int) {
			for _, d := range g.debts {
				if g.owed <= each || e.owed.Load() <= left {
					break
				}
				d.stream.mu.Lock()
				if d.stream.relievableLocked() {
					freed, some := ease(d.stream)
					g.owed -= freed
					if some {
						n++
					}
				}
				d.stream.mu.Unlock()
			}
			return n
		}
		did.Shed += relieve(func(s *Stream) (int64, bool) { return s.shedLocked(int(s.taken), DropBudget) })
		did.Cut += relieve(func(s *Stream) (int64, bool) { return s.cutLocked(), true })
	}
	did.Owed = e.owed.Load()
	return did
}

// groups are those that owe anything, in the order in which they are relieved. Nothing
// is counted for them before somebody looks: a delivery costs no more for it.
func (e *Engine) groups() []*group {
	byName := map[string]*group{}
	for _, s := range e.part(nil, 0, 1) {
		s.mu.Lock()
		if owed := shareOf(s.pending); owed > 0 {
			name := s.owner.Group()
			g := byName[name]
			if g == nil {
				g = &group{}
				byName[name] = g
			}
			g.owed += owed
			if s.relievableLocked() {
				d := debt{stream: s, share: shareOf(s.pending[s.taken:])}
				if !s.stalledLocked() {
					d.reads = 1
				}
				g.blocked += d.share
				g.debts = append(g.debts, d)
			}
		}
		s.mu.Unlock()
	}
	groups := make([]*group, 0, len(byName))
	for _, g := range byName {
		slices.SortFunc(g.debts, func(a, b debt) int { return cmp.Or(cmp.Compare(a.reads, b.reads), cmp.Compare(b.share, a.share)) })
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *group) int { return cmp.Compare(b.blocked, a.blocked) })
	return groups
}

// level is how much each may owe so that all together owe at most so much.
func level(groups []*group, all int64) int64 {
	owed := make([]int64, 0, len(groups))
	for _, g := range groups {
		owed = append(owed, g.owed)
	}
	slices.Sort(owed)
	for i, n := range owed {
		if each := all / int64(len(owed)-i); n > each {
			return each
		}
		all -= n
	}
	return math.MaxInt64
}

// shareOf is the memory that frames in one stream's list take, in bytes: of a frame that
// others owe as well an equal part. So what all streams have of it is the frame, once.
func shareOf(frames []*Frame) (share int64) {
	for _, f := range frames {
		share += listed + f.memory()/max(1, int64(f.owers.Load()))
	}
	return share
}

// relievableLocked says that s's client was offered something that the socket has no
// room for, and that something it owes can be dropped.
func (s *Stream) relievableLocked() bool {
	return !s.closed && s.state != starting && s.blockedLocked() && len(s.pending) > int(s.taken)
}

// How long, and up to how many times [Config].Buffer, a stream may owe too much while its
// client takes some of it: a socket that is full at a moment says nothing of who reads.
const (
	stallTime  = 2 * time.Second
	mostBuffer = 4
)

// stalledLocked says that s's client, who was offered something, takes nothing of it.
func (s *Stream) stalledLocked() bool {
	return s.state == starting || s.engine.clock.Load()-s.wroteAt >= int64(stallTime)
}

// boundLocked relieves a stream whose client does not read. One that is healthy
// may be owed any amount: we have not offered it yet.
func (s *Stream) boundLocked() {
	limit := s.engine.cfg.Buffer
	if limit <= 0 || s.closed || s.owed <= limit || !s.blockedLocked() {
		s.over = false
		return
	}
	from := int(s.taken)
	if s.over {
		from = max(from, len(s.pending)-1) // what was before has none
	}
	s.over = true
	s.shedLocked(from, DropSlow)
	switch {
	case s.owed <= limit:
	case s.owed > mostBuffer*limit || s.stalledLocked():
		s.cutLocked()
	case !s.watched:
		s.watched = true
		s.engine.later(&s.engine.watches, s, stallTime)
	}
}

// lookAgain is boundLocked after a while.
func (s *Stream) lookAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched = false
	s.boundLocked()
}
