package engine

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"
)

// turns counts the pieces between which nobody else had a turn.
type turns struct {
	others *atomic.Int64
	first  chan struct{} // closed once there is more to read
	bytes  *atomic.Int64
	last   *int64
	same   *atomic.Int64
	pieces *atomic.Int64
}

// Ended implements Input.
func (turns) Ended() {}

// Received implements Input.
func (c turns) Received(p []byte) {
	<-c.first
	c.pieces.Add(1)
	if now := c.others.Load(); now == *c.last {
		c.same.Add(1)
	} else {
		*c.last = now
	}
	c.bytes.Add(int64(len(p)))
}

// Whoever sends without end lets others run between what is read at once.
func TestWhoSendsWithoutEndTakesTurns(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
		var others, read, same, pieces atomic.Int64
		last := int64(-1)
		input := turns{&others, make(chan struct{}), &read, &last, &same, &pieces}
		v, _ := h.upgradeTo(t, "a", input)
		_, err := v.peer.Write(make([]byte, 64<<10))
		is.NoErr(err)
		over := make(chan struct{})
		var spun sync.WaitGroup
		spun.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					others.Add(1)
					runtime.Gosched()
				}
			}
		})
		close(input.first)
		eventually(t, "all to be read", func() bool { return read.Load() == 64<<10 })
		close(over)
		spun.Wait()
		t.Logf("%d of %d pieces without a turn for others", same.Load(), pieces.Load())
		is.True(4*same.Load() < pieces.Load()) // all but the first, if nobody gave way; the scheduler may once have had other work
	})
}
