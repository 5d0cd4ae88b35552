package signalr

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/engine"
)

// newPoll is a session that is polled, and all there are.
func newPoll() (*poll, *polls) {
	ctx, cancel := context.WithCancel(context.Background())
	all := &polls{}
	p := &poll{id: uuid.New(), all: all, cancel: cancel, gone: ctx.Done(), more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	p.idle = time.AfterFunc(idleTime, p.end)
	all.add(p)
	return p, all
}

// next is a poll whose client reads its answer at once.
func (p *poll) next(ctx context.Context, wait time.Duration) (records []byte, over bool) {
	asked := p.begin()
	defer p.done(asked, idleTime)
	return p.take(ctx, asked, wait)
}

// A poll has what there is, or waits for it; it is empty after a time, and over once another
// comes, or its client has left.
func TestPollTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p, all := newPoll()
		p.put([]byte("a\x1e"))
		p.put([]byte("b\x1e"))
		records, over := p.next(t.Context(), pollTime)
		is.Equal(string(records), "a\x1eb\x1e")
		is.True(!over)

		begun := time.Now()
		records, over = p.next(t.Context(), pollTime)
		is.Equal(len(records), 0)
		is.True(!over)
		is.Equal(time.Since(begun), pollTime)

		go func() {
			time.Sleep(time.Second)
			p.put([]byte("c\x1e"))
		}()
		begun = time.Now()
		records, _ = p.next(t.Context(), pollTime)
		is.Equal(string(records), "c\x1e")
		is.Equal(time.Since(begun), time.Second)

		first := make(chan bool)
		go func() {
			_, over := p.next(t.Context(), pollTime)
			first <- over
		}()
		synctest.Wait()
		second := make(chan string)
		go func() {
			records, _ := p.next(t.Context(), pollTime)
			second <- string(records)
		}()
		is.True(<-first) // another poll has come
		p.put([]byte("d\x1e"))
		is.Equal(<-second, "d\x1e")

		p.put([]byte("last\x1e"))
		p.close()
		records, over = p.next(t.Context(), pollTime)
		is.Equal(string(records), "last\x1e")
		is.True(!over)
		is.True(all.of(p.id) == p)
		_, over = p.next(t.Context(), pollTime)
		is.True(over)
		is.True(all.of(p.id) == nil)
	})
}

// Who is told that there is something to take, and may not any more, passes it on.
func TestPollPassesOnWhatItMayNotTake(t *testing.T) {
	is := is.New(t)
	p, _ := newPoll()
	older := p.begin()
	p.begin()
	p.put([]byte("a\x1e"))
	<-p.more // as the older one does that has yet to notice
	_, over := p.takeKept(older, false)
	is.True(over)
	is.Equal(len(p.more), 1)
	p.end()
}

// What another hub takes has to reach its client before the next poll: else the session ends, and
// the client comes back with its cursor.
func TestPollOfAnotherHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p, all := newPoll()
		p.put([]byte("a\x1e"))
		records, _ := p.takeFar(farTime)
		is.Equal(string(records), "a\x1e")
		p.put([]byte("b\x1e"))
		go func() {
			time.Sleep(toldTime / 2)
			p.told() // the client was quicker with its next poll
		}()
		begun := time.Now()
		records, over := p.next(t.Context(), pollTime)
		is.Equal(string(records), "b\x1e")
		is.True(!over)
		is.Equal(time.Since(begun), toldTime/2)

		records, _ = p.takeFar(farTime) // nothing is taken, so nothing is to be told
		is.Equal(len(records), 0)
		p.put([]byte("c\x1e"))
		records, over = p.takeFar(farTime)
		is.Equal(string(records), "c\x1e")
		is.True(!over)
		p.put([]byte("d\x1e"))
		records, over = p.takeFar(farTime) // the hub that had taken c is dead
		is.Equal(len(records), 0)
		is.True(over)
		is.True(all.of(p.id) == nil)
	})
}

// A session ends whose client does not poll for a while, and none whose poll waits.
func TestPollIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p, all := newPoll()
		for range 5 {
			p.next(t.Context(), pollTime)
			time.Sleep(idleTime - time.Millisecond)
		}
		is.True(all.of(p.id) == p)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		is.True(all.of(p.id) == nil)
		err := p.put(make([]byte, 1))
		is.NoErr(err) // there is room, for whom nobody asks
		err = p.put(make([]byte, pollRoom))
		is.Equal(err, engine.ErrGone)
		_, over := p.next(t.Context(), pollTime)
		is.True(!over)
		_, over = p.next(t.Context(), pollTime)
		is.True(over)
	})
}

// Another hub's client has its time for the next poll once it has read its answer, too; where it is not
// known whether it ever does, it has longer.
func TestPollIdleAtAnotherHub(t *testing.T) {
	for name, reads := range map[string]bool{"that tells": true, "that has died": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				p, all := newPoll()
				p.put([]byte("a\x1e"))
				p.takeFar(farTime)
				time.Sleep(readTime - time.Second)
				if reads {
					p.told()
					time.Sleep(idleTime - time.Millisecond)
				} else {
					time.Sleep(idleTime + time.Second - time.Millisecond)
				}
				synctest.Wait()
				is.True(all.of(p.id) == p)
				time.Sleep(time.Millisecond)
				synctest.Wait()
				is.True(all.of(p.id) == nil)
			})
		})
	}
}

// What nobody takes is bounded: the stream waits, and the engine knows it for a slow one.
func TestPollRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p, _ := newPoll()
		large := []byte(strings.Repeat("x", 2*pollRoom) + "\x1e")
		err := p.put(large) // one record is taken, however large
		is.NoErr(err)
		written := false
		go func() {
			p.put([]byte("next\x1e"))
			written = true
		}()
		synctest.Wait()
		is.True(!written)
		records, _ := p.next(t.Context(), pollTime)
		is.Equal(len(records), len(large))
		records, _ = p.next(t.Context(), pollTime)
		is.Equal(string(records), "next\x1e")
		synctest.Wait()
		is.True(written)
		p.end()
	})
}

// Clients of streams without a heartbeat are sent pings at most 15 s apart, until they have left.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		e := engine.NewEngine(engine.Config{Buffer: 1 << 20})
		p, _ := newPoll()
		p.idle.Stop()
		c := &delivery.Connection{ID: uuid.New(), Stream: e.NewStream(&engine.Words{}, func(error) {})}
		var left atomic.Bool
		var pings pings
		pings.find = func(id uuid.UUID) *delivery.Connection {
			is.True(pings.mu.TryLock()) // who comes meanwhile does not wait until all are pinged
			pings.mu.Unlock()
			if left.Load() || id != c.ID {
				return nil
			}
			return c
		}
		go e.Hand(t.Context(), c.Stream, p.put)
		pings.add(c.ID, Events)
		pings.add(uuid.New(), Sockets) // has left already
		for range 6 {
			records, _ := p.next(t.Context(), mostSilence)
			is.Equal(string(records), "data: {\"type\":6}\x1e\n\n")
		}
		synctest.Wait()
		is.Equal(pings.count(), 1)
		left.Store(true)
		records, _ := p.next(t.Context(), time.Hour)
		is.Equal(len(records), 0)
		is.Equal(pings.count(), 0)
		c.Stream.Close(engine.NewFrame(nil, false))
		is.NoErr(e.Close(t.Context()))
		p.end()
	})
}

func (p *pings) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.list)
}
