package engine

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// member is an owner of a group.
type member string

func (member) Gone(error)                   {}
func (member) Beat(*Stream, *Batch, *Frame) {}
func (member) Words() *Words                { return testWords }
func (m member) Group() string              { return string(m) }

// members are n streams of a group in a state, which nobody serves.
func members(t *testing.T, e *Engine, group string, n int, in state) (streams []*Stream) {
	for range n {
		s := e.NewOwned(member(group))
		is.New(t).True(e.enter(s))
		s.state = in
		streams = append(streams, s)
	}
	return streams
}

// relieved is how many of them were cut and how many shed.
func relieved(streams []*Stream) (cut, shed int) {
	for _, s := range streams {
		s.mu.Lock()
		if s.cut {
			cut++
		}
		if s.shed {
			shed++
		}
		s.mu.Unlock()
	}
	return cut, shed
}

// Those who together owe nearly all pay for it, though each has but a small share of
// what they owe in common, and a stream of another group owes more than any of them.
func TestReliefIsOfTheGroupThatOwesMost(t *testing.T) {
	is := is.New(t)
	const budget = 1_000_000
	e, reliefs := budgeted(t, budget)
	large, small := members(t, e, "large", 140, blocked), members(t, e, "small", 1, blocked)
	deliver(small, passingEvent(make([]byte, 40_000)), NewFrame(make([]byte, 40_000), false))
	for len(*reliefs) == 0 {
		deliver(large, NewFrame(make([]byte, 20_000), false)) // 143 bytes of it each
	}
	cut, shed := relieved(small)
	is.Equal(cut+shed, 0) // did nothing, and noticed nothing
	cut, _ = relieved(large)
	is.True(cut > 0)
	is.True(e.Owed() <= budget*budgetAfter/100)
}

// Within the group who owes most is relieved first; those who take some of what they are
// offered come after all who take nothing.
func TestReliefWithinAGroup(t *testing.T) {
	is := is.New(t)
	e, _ := budgeted(t, 1_000_000)
	streams := members(t, e, "a", 4, blocked)
	for i := range 3 {
		streams[i].wroteAt = -int64(time.Hour)
	}
	streams[3].wroteAt = int64(time.Hour) // and it owes most
	for i, size := range []int{150_000, 190_000, 20_000, 400_000} {
		deliver(streams[i:i+1], NewFrame(make([]byte, size), false))
	}
	for i, want := range []bool{false, true, false, false} { // that is enough
		is.Equal(streams[i].cut, want)
	}
	deliver(streams[3:], NewFrame(make([]byte, 300_000), false))
	for i, want := range []bool{true, true, true, true} {
		is.Equal(streams[i].cut, want)
	}
}

// What a group owes that cannot be relieved is its own too: others who owe no more than
// their part are left alone, however little that helps.
func TestNobodyIsRelievedForAnother(t *testing.T) {
	is := is.New(t)
	e, reliefs := budgeted(t, 1_000_000)
	large, small := members(t, e, "large", 10, gathered), members(t, e, "small", 10, blocked)
	for i := range small {
		deliver(small[i:i+1], passingEvent(make([]byte, 10_000)), NewFrame(make([]byte, 4_000), false))
	}
	for _, s := range large {
		s.state = ready // it is a writer's turn
		deliver([]*Stream{s}, NewFrame(make([]byte, 200_000), false))
	}
	is.True(e.Owed() > 2_000_000)
	e.relieve()
	e.Relieve()
	is.Equal(len(*reliefs), 0)
	for _, s := range large {
		s.state = blocked
	}
	e.limit.Store(0)
	e.relieve()
	cut, shed := relieved(small)
	is.Equal(cut+shed, 0)
	cut, _ = relieved(large)
	is.Equal(cut, 8)
}

// Where memory is scarce for other reasons less is left, shared likewise; and nothing is
// done where little is owed.
func TestReliefWhereMemoryIsScarce(t *testing.T) {
	is := is.New(t)
	e, reliefs := budgeted(t, 1_000_000)
	large, small := members(t, e, "large", 8, blocked), members(t, e, "small", 1, blocked)
	e.Relieve()
	deliver(small, NewFrame(make([]byte, 100_000), false))
	e.Relieve()
	for i := range large {
		deliver(large[i:i+1], NewFrame(make([]byte, 50_000), false))
	}
	is.Equal(len(*reliefs), 0)
	e.Relieve()
	cut, _ := relieved(small)
	is.Equal(cut, 0)
	cut, _ = relieved(large)
	is.Equal(cut, 5) // 500,000 less 5 × 50,000 and what a list and last words take
	is.True(e.Owed() <= 300_000)
}

// The level is the one at which all together owe so much: who owes less is left alone,
// and the others are left as much as each other.
func TestLevel(t *testing.T) {
	is := is.New(t)
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		var groups []*group
		sum := int64(0)
		for range 1 + random.IntN(20) {
			owed := random.Int64N(1 << random.IntN(30))
			groups, sum = append(groups, &group{owed: owed}), sum+owed
		}
		all := random.Int64N(2*sum + 1)
		each, left := level(groups, all), int64(0)
		for _, g := range groups {
			left += min(g.owed, each)
		}
		is.True(left <= all)
		is.True(left > all-int64(len(groups)) || left == sum) // but for a division's rest
	}
}

// Shares of what is in the lists add up to what the engine counts, however frames are
// shared within groups and between them.
func TestSharesAddUp(t *testing.T) {
	is := is.New(t)
	e, _ := budgeted(t, 0)
	var all []*Stream
	for i := range 7 {
		all = append(all, members(t, e, fmt.Sprint(i%3), 5, blocked)...)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		f := NewFrame(make([]byte, random.IntN(5000)), false)
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		deliver(all[:1+random.IntN(len(all))], f)
	}
	sum := int64(0)
	groups := e.groups()
	is.Equal(len(groups), 3)
	for _, g := range groups {
		is.Equal(g.owed, g.blocked)
		sum += g.owed
	}
	is.True(sum <= e.Owed())
	is.True(sum > e.Owed()-200*35) // but for divisions' rests
}

// A socket that is full at a moment does not say that its client does not read: who
// takes some of what it is offered may owe more for a while, up to a bound; who takes
// nothing is cut.
func TestWhoReadsMayBeBehind(t *testing.T) {
	const buffer = 100
	owing := func(n int) (*Engine, *Stream) { // as it is found after a write that the socket took a part of
		e := NewEngine(Config{Buffer: buffer})
		e.clock.Store(int64(time.Hour))
		s := e.NewStream(testWords, func(error) {})
		s.state, s.wroteAt = blocked, int64(time.Hour)
		for range n {
			deliver([]*Stream{s}, NewFrame(make([]byte, 15), false)) // 20 as a chunk
		}
		return e, s
	}
	later := func(e *Engine, after time.Duration) {
		e.clock.Add(int64(after))
		e.expire(time.Duration(e.clock.Load()))
	}
	t.Run("reads", func(t *testing.T) {
		is := is.New(t)
		e, s := owing(18)
		for range 3 {
			later(e, stallTime/2)
			s.mu.Lock()
			s.advanceLocked(10) // some of it
			s.mu.Unlock()
			later(e, stallTime/2)
			is.True(!s.cut)
			is.Equal(len(e.watches), 1) // it is looked at again
		}
		later(e, stallTime)
		is.True(s.cut) // it has stopped
	})
	t.Run("catches up", func(t *testing.T) {
		is := is.New(t)
		e, s := owing(18)
		s.mu.Lock()
		s.advanceLocked(18*15 - 20)
		s.mu.Unlock()
		later(e, time.Hour)
		is.True(!s.cut) // it owes no more than it may
		is.Equal(len(e.watches), 0)
	})
	t.Run("takes nothing", func(t *testing.T) {
		is := is.New(t)
		e, s := owing(18)
		later(e, stallTime-1)
		is.True(!s.cut)
		later(e, 1)
		is.True(s.cut)
		is.Equal(len(s.pending), 2) // the last words
	})
	t.Run("has taken nothing for long", func(t *testing.T) {
		is := is.New(t)
		e, s := owing(5)
		later(e, stallTime)
		is.True(!s.cut) // it owes no more than it may
		deliver([]*Stream{s}, NewFrame(make([]byte, 15), false))
		is.True(s.cut)
	})
	t.Run("too much", func(t *testing.T) {
		is := is.New(t)
		_, s := owing(mostBuffer * buffer / 20)
		is.True(!s.cut)
		_, s = owing(mostBuffer*buffer/20 + 1)
		is.True(s.cut)
	})
}

// Who does not read is cut though nothing more is sent to it.
func TestWhoStallsIsCutInTime(t *testing.T) {
	allPaths(t, Config{Buffer: 64 << 10}, func(t *testing.T, h *house) {
		_, g := h.open(t, "a")
		f := eventFrame(strings.Repeat("x", 10_000))
		eventually(t, "the cut", func() bool {
			g.mu.Lock()
			full, cut := g.blockedLocked() && g.owed > 64<<10, g.cut
			g.mu.Unlock()
			if !full {
				deliver([]*Stream{g.Stream}, f)
			}
			return cut
		})
	})
}
