package engine

import (
	"context"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// budgeted is an engine with a budget, whose relief is kept.
func budgeted(t *testing.T, budget int64) (e *Engine, reliefs *[]Relief) {
	reliefs = new([]Relief)
	e = NewEngine(Config{
		Budget:   budget,
		Relieved: func(r Relief) { *reliefs = append(*reliefs, r) },
	})
	t.Cleanup(func() {
		for _, s := range e.part(nil, 0, 1) {
			s.end(nil)
		}
		if owed := e.Owed(); owed != 0 {
			t.Errorf("%d bytes are still owed", owed)
		}
		is.New(t).NoErr(e.Close(context.Background()))
	})
	return e, reliefs
}

// standing are n streams in a state, which nobody serves.
func standing(t *testing.T, e *Engine, n int, in state) (streams []*Stream) {
	words := shortWords()
	for range n {
		s := e.NewStream(words, func(error) {})
		is.New(t).True(e.enter(s))
		s.state = in
		streams = append(streams, s)
	}
	return streams
}

// However many owe a frame, it counts once, from the first who owes it to the last
// who has it whole, and beside it its places in their lists.
func TestAFrameCountsOnce(t *testing.T) {
	is := is.New(t)
	e, _ := budgeted(t, 0)
	streams := standing(t, e, 100, blocked)
	f, other := NewFrame(make([]byte, 1000), false), passingEvent(make([]byte, 10))
	size, small := int64(frameBytes+1000+len("3e8\r\n\r\n")), int64(frameBytes+10+len("a\r\n\r\n"))
	deliver(streams, f)
	is.Equal(e.Owed(), size+100*listed)
	deliver(streams[:2], other, f, other)
	is.Equal(e.Owed(), size+small+106*listed)

	advance := func(s *Stream, n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.advanceLocked(n)
	}
	for _, s := range streams[2:] {
		advance(s, 1000)
	}
	is.Equal(e.Owed(), size+small+8*listed)
	advance(streams[0], 999)
	is.Equal(e.Owed(), size+small+8*listed) // whole, or not at all
	advance(streams[0], 1+10+1000)
	is.Equal(e.Owed(), size+small+5*listed)
	shed, cut, last := int64(frameBytes+len("1\r\nS\r\n")), int64(frameBytes+len("3\r\nCUT\r\n")), int64(frameBytes+len("0\r\n\r\n"))
	streams[0].shedLocked(0, DropBudget)
	is.Equal(e.Owed(), size+small+shed+5*listed) // told of in place of it
	streams[1].shedLocked(0, DropBudget)
	is.Equal(e.Owed(), size+shed+4*listed)
	streams[1].cutLocked()
	is.Equal(e.Owed(), shed+cut+last+3*listed)
	deliver(streams[1:2], f) // to nobody
	is.Equal(e.Owed(), shed+cut+last+3*listed)
	streams[0].Close(f)
	is.Equal(e.Owed(), shed+cut+last+size+5*listed)
}

// What small frames take is counted, and not only what of it goes over the wire: a client that
// pings and does not read has very many of them.
func TestSmallFramesCount(t *testing.T) {
	is := is.New(t)
	e, _ := budgeted(t, 0)
	streams := standing(t, e, 1, blocked)
	before := testkit.LiveHeap()
	for range 100_000 {
		deliver(streams, NewFrame([]byte("\x8a\x00"), false))
	}
	grown := testkit.LiveHeap() - before
	is.True(grown > 0 && grown < e.Owed()*3/2)
	runtime.KeepAlive(streams)
}

// Who was offered nothing yet is not relieved, however much is owed, and not blamed;
// nor is who owes nothing that could be dropped.
func TestReliefIsOfWhoDoesNotRead(t *testing.T) {
	for _, in := range []state{starting, idle, gathered, ready, writing} {
		is := is.New(t)
		e, reliefs := budgeted(t, 10_000)
		streams := standing(t, e, 20, in)
		for _, s := range streams {
			s.state = gathered // for the delivery, whose flush would write
			deliver([]*Stream{s}, passingEvent(make([]byte, 1000)))
			s.state = in
		}
		e.relieve()
		for _, s := range streams {
			is.True(!s.cut && !s.shed)
		}
		is.Equal(len(*reliefs), 0)

		plain := standing(t, e, 1, writing)[0] // for longer than any client takes, or since just now
		plain.wake = make(chan struct{}, 1)
		plain.taken = 1 // of all that it owes
		deliver([]*Stream{plain}, passingEvent(make([]byte, 1000)))
		e.limit.Store(0)
		e.relieve()
		is.True(!plain.cut)
	}
}

// Ephemeral frames go first, and then those whose end frees memory: what a stream
// owes with many others is theirs as well.
func TestReliefTakesWhoHoldsMemory(t *testing.T) {
	is := is.New(t)
	const budget = 1_000_000
	e, reliefs := budgeted(t, budget)
	streams := standing(t, e, 40, blocked)
	shared, own, passing := streams[:38], streams[38], streams[39]
	for range 40 {
		deliver(shared, NewFrame(make([]byte, 10_000), false)) // 400,000 each, and together
	}
	deliver([]*Stream{passing}, passingEvent(make([]byte, 100_000)))
	deliver([]*Stream{own}, NewFrame(make([]byte, 240_000), false)) // too much
	is.Equal(*reliefs, []Relief{{Shed: 1, Cut: 1, Owed: e.Owed()}})
	is.True(own.cut)
	is.True(passing.shed && !passing.cut)
	is.True(e.Owed() <= budget*budgetAfter/100)
	for _, s := range shared {
		is.True(!s.cut)
	}
}

// looks counts how often all streams are looked at.
func looks(e *Engine, publishes int, publish func()) (n int) {
	for range publishes {
		before := e.limit.Load()
		publish()
		if e.limit.Load() != before {
			n++
		}
	}
	return n
}

// While too much is owed and nobody can be relieved, a publish does not look at every
// stream: only after some have grown the debt by a step, or the tick.
func TestReliefIsSoughtNowAndThen(t *testing.T) {
	is := is.New(t)
	const budget = 1_000_000
	e, _ := budgeted(t, budget)
	streams := standing(t, e, 10, ready)
	f := NewFrame(make([]byte, 5_000), false)
	n := looks(e, 1000, func() { deliver(streams, NewFrame(f.data, false)) })
	is.True(n > 0)
	is.True(n <= 1000*(int(f.memory())+10*listed)/(budget*budgetStep/100)+1)
	streams[0].mu.Lock() // the tick looks at it too
	streams[0].state = blocked
	cut := streams[0].cut
	streams[0].mu.Unlock()
	is.True(!cut)
	eventually(t, "the tick to look", func() bool {
		streams[0].mu.Lock()
		defer streams[0].mu.Unlock()
		return streams[0].cut
	})
}

// Publishers, writers, kicks and relief at once: at the end exactly nothing is owed.
func TestNothingIsOwedInTheEnd(t *testing.T) {
	allPaths(t, Config{Buffer: 64 << 10, Budget: 1 << 20}, func(t *testing.T, h *house) {
		var all, half []*Stream
		var readers sync.WaitGroup
		for i := range 24 {
			v, g := h.open(t, string(rune('a'+i)))
			all = append(all, g.Stream)
			if i%2 == 0 {
				half = append(half, g.Stream)
				readers.Go(func() { io.Copy(io.Discard, v.peer) })
			} // else it does not read
		}
		var publishers sync.WaitGroup
		for p := range 4 {
			publishers.Go(func() {
				for i := range 300 {
					data := strings.Repeat("x", 1+(i*p*977)%20_000)
					f := NewFrame(eventFrame(data).data, i%3 == 0)
					deliver(all, f, f)
					deliver(half, f)
					if i%100 == 99 {
						all[(i*p)%len(all)].Close(testLast)
					}
				}
			})
		}
		publishers.Wait()
		for _, s := range all {
			s.Close(testLast)
		}
		h.leave()
		readers.Wait()
	}) // which says what is owed
}
