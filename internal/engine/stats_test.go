package engine

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/sse"
	"realtimehub/internal/tcp"
)

// published is a frame of n events that were published a while ago.
func published(data string, n int, ago time.Duration) *Frame {
	b, _ := sse.AppendEvent(nil, "", "", []byte(data))
	return NewEvents(b, n, false, time.Now().Add(-ago))
}

// What is written is counted once, event by event; what is no event, and what was
// never timed, does not count as such.
func TestStatsOfWrites(t *testing.T) {
	allPaths(t, Config{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		is := is.New(t)
		a, first := h.open(t, "a")
		b, second := h.open(t, "b")
		both := []*Stream{first.Stream, second.Stream}
		deliver(both, published("timed", 1, 30*time.Millisecond))
		a.next(t, "timed")
		b.next(t, "timed")
		replay, _ := sse.AppendEvent(nil, "", "", []byte("replay"))
		deliver(both[:1], NewEvents(replay, 7, false, time.Time{}))
		a.next(t, "replay")
		deliver(both[:1], eventFrame("none")) // such as hub.ready
		a.next(t, "none")
		eventually(t, "all to be counted", func() bool { return h.Stats().Delivered == 9 })
		stats := h.Stats()
		timed := int64(0)
		for bucket, n := range stats.Ages {
			timed += n
			is.True(n == 0 || bucket == ages || AgeBound(bucket) >= 30*time.Millisecond)
		}
		is.Equal(timed, int64(2))
		is.True(stats.AgeSum >= 60*time.Millisecond && stats.AgeSum < time.Minute)
		is.Equal(stats.Dropped, [drops]int64{})
	})
}

// A write call is timed by the oldest event that it ends: one reading of the clock.
func TestStatsOfTheOldest(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{})
	s := e.NewStream(shortWords(), func(error) {})
	old, young := published("o", 1, time.Hour), published("y", 1, time.Second)
	s.pending = []*Frame{NewEvents([]byte("replay"), 3, false, time.Time{}), old, young, young}
	whole := 6 + len(old.data) + len(young.data)
	s.owed = whole + len(young.data)
	s.mu.Lock()
	w := s.advanceLocked(whole + 1)
	is.Equal(w.events, 5) // the last is not whole
	is.Equal(w.since, old.since)
	w = s.advanceLocked(len(young.data) - 1)
	s.mu.Unlock()
	is.Equal(w.events, 1)
	is.Equal(w.since, young.since)
}

func TestAgeBuckets(t *testing.T) {
	is := is.New(t)
	for want := range ages {
		// The bound itself is in its bucket, as Prometheus has it.
		for _, age := range []time.Duration{AgeBound(want) * 3 / 4, AgeBound(want)} {
			is.Equal(ageBucket(age), want)
		}
		is.Equal(ageBucket(AgeBound(want)+1), want+1)
	}
	is.Equal(ageBucket(0), 0)
	is.Equal(ageBucket(-time.Second), 0)
	is.Equal(ageBucket(24*time.Hour), ages)
}

// Each event that is not written has its reason, and only one.
func TestStatsOfDrops(t *testing.T) {
	is := is.New(t)
	word := func(text string, ephemeral bool) *Frame { return NewEvents([]byte(text), 1, ephemeral, time.Time{}) }
	stored, passing := word("1234", false), word("abcd", true) // 9 bytes each, as chunks
	cfg := Config{Buffer: 25}
	e := NewEngine(cfg)
	s := e.NewStream(shortWords(), func(error) {}) // nobody writes it
	deliver([]*Stream{s}, stored, passing, passing)
	is.Equal(e.Stats().Dropped, [drops]int64{DropSlow: 2})
	is.Equal(e.Stats().Shed, int64(1)) // told once
	deliver([]*Stream{s}, stored, stored)
	is.Equal(e.Stats().Dropped, [drops]int64{DropSlow: 2, DropCut: 3})
	deliver([]*Stream{s}, stored, passing)
	is.Equal(e.Stats().Dropped, [drops]int64{DropSlow: 2, DropCut: 3, DropClosed: 2})

	left := e.NewStream(shortWords(), func(error) {})
	deliver([]*Stream{left}, stored, stored)
	is.True(e.enter(left))
	left.end(ErrGone)
	is.Equal(e.Stats().Dropped, [drops]int64{DropSlow: 2, DropCut: 3, DropClosed: 2, DropGone: 2})

	cfg.Buffer, cfg.Budget = 0, 1000
	e2 := NewEngine(cfg)
	one := e2.NewStream(shortWords(), func(error) {})
	is.True(e2.enter(one))
	one.state = blocked
	deliver([]*Stream{one}, word(strings.Repeat("x", 500), true), word(strings.Repeat("y", 400), true))
	is.Equal(e2.Stats().Dropped, [drops]int64{DropBudget: 2})
	is.Equal(e2.Stats().Shed, int64(1))
	one.end(nil)
	is.NoErr(e.Close(t.Context()))
	is.NoErr(e2.Close(t.Context()))
	names := map[string]bool{}
	for why := range drops {
		names[why.String()] = true
	}
	is.Equal(len(names), int(drops))
}

// Who has enough in the middle of what it is given has only so many events. What is left out is
// lost where it is ephemeral.
func TestStatsOfWhoHasEnough(t *testing.T) {
	for taken, lost := range map[int]int64{0: 5, 3: 5, 10: 5, 11: 4, 12: 3} {
		is := is.New(t)
		e := NewEngine(Config{})
		gone := make(chan error, 1)
		s := e.NewStream(shortWords(), func(why error) { gone <- why })
		passing := func(n int) *Frame { return NewEvents([]byte("passing"), n, true, time.Now().Add(-time.Hour)) }
		deliver([]*Stream{s}, NewEvents([]byte("replay"), 10, false, time.Time{}), passing(3), passing(2))
		e.Hand(t.Context(), s, func([]byte) error { return Enough(taken) })
		is.Equal(<-gone, Enough(taken))
		stats := e.Stats()
		is.Equal(stats.Delivered, int64(taken))
		is.Equal(stats.Dropped, [drops]int64{DropGone: lost})
		is.Equal(stats.Ages[ages] == 1, taken > 10) // what was not taken is not timed
		is.Equal(stats.Owed, int64(0))
		is.NoErr(e.Close(t.Context()))
	}
}

// What the kernel says of a peer is why its stream ended.
func TestLost(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{})
	owing := e.NewStream(shortWords(), func(error) {})
	owing.owed = 1
	is.Equal(owing.lost(tcp.ErrTimedOut), ErrSlow)
	is.Equal(e.NewStream(shortWords(), nil).lost(tcp.ErrTimedOut), ErrVanished)
	is.Equal(owing.lost(tcp.ErrUnreachable), ErrVanished) // however much it is owed
	is.Equal(owing.lost(io.EOF), ErrGone)
}
