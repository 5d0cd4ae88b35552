package engine

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/tcp"
)

// Why a stream ended, as its [Owner] is told; nil is for [Stream.Close].
var (
	ErrGone     = errors.New("the client went away")
	ErrVanished = errors.New("the client does not answer")
	ErrSlow     = errors.New("the client reads too slowly")
	ErrNoisy    = errors.New("the client kept sending")
)

// Enough is why a stream ended whose client has what it asked for. It is how many events were
// taken of what [Engine.Hand] gave last.
type Enough int

// Error implements error.
func (Enough) Error() string { return "the client has what it asked for" }

const (
	maxTick    = 250 * time.Millisecond
	stormSize  = 1_000 // connects after which memory is given back once they stop
	stormQuiet = time.Second
	maxShards  = 16
)

// Config is what an engine needs to know; 0 lifts a limit.
type Config struct {
	Buffer    int           // bytes that a client who does not read may be owed; four times as many if it takes some of it
	Budget    int64         // bytes of memory that all clients together may be owed; a frame counts once
	Heartbeat time.Duration // a stream is sent a beat after so long a silence at most
	Linger    time.Duration // for the last words to a client that does not read; 0: 5 s
	Plain     bool          // never takes a socket from net/http

	// Relieved is told, with no lock held, what it took to keep to the budget. May be nil.
	Relieved func(Relief)
}

// Engine writes streams, and reads those whose clients send. It has a few goroutines however
// many streams there are, and none before the first.
//
// Lock order: a stream's mu → Engine.mu, Engine.lingerMu, a shard's mu: leaves.
// Callbacks run with no lock held.
type Engine struct {
	// Static.
	cfg       Config
	shards    []*shard
	lastChunk *Frame // ends a body in chunks; to another it adds nothing
	poller    *tcp.Poller

	owed  atomic.Int64 // bytes that all streams owe: each frame once, and its places in their lists; may lag behind
	limit atomic.Int64 // of owed, for a look at who may be relieved
	clock atomic.Int64 // nanoseconds since the start, as of the last tick

	losses losses

	toRead  chan reading // taken by those who rest
	resting atomic.Int32 // of who reads

	relieving sync.Mutex

	mu sync.Mutex
	// Guarded by mu.
	table    []entry // every stream that is served; epoll knows a stream by its place here
	free     []uint32
	open     int
	connects int           // since memory was given back
	started  bool          // its goroutines run
	stopped  bool          // no stream is taken any more
	empty    chan struct{} // not nil: who waits for the last stream to end

	lingerMu sync.Mutex
	// Guarded by lingerMu; in the order of their times.
	lingers []waiting // closed streams, until they are ended
	watches []waiting // those past the buffer, until they are looked at again

	stop       chan struct{}
	background sync.WaitGroup
}

// entry is a place in the table. Its generation tells a stale epoll event from
// one for the stream that has the place now.
type entry struct {
	stream     *Stream
	generation uint32
}

// waiting is a stream that something is to be done with at a time of the clock.
type waiting struct {
	stream *Stream
	until  time.Duration
}

// NewEngine makes an engine; its goroutines start with its first stream, and end
// with [Engine.Close].
func NewEngine(cfg Config) *Engine {
	cfg.Linger = cmp.Or(cfg.Linger, 5*time.Second)
	e := &Engine{cfg: cfg, lastChunk: &Frame{chunk: []byte("0\r\n\r\n")}, toRead: make(chan reading), stop: make(chan struct{})}
	e.poller = tcp.NewPoller(&e.owed, e.background.Go, e.told)
	e.limit.Store(percent(cfg.Budget, budgetShed))
	e.shards = make([]*shard, min(runtime.GOMAXPROCS(0), maxShards))
	for i := range e.shards {
		e.shards[i] = &shard{index: i, wake: make(chan struct{}, 1)}
	}
	return e
}

// Streams is how many streams are being served.
func (e *Engine) Streams() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open
}

// Owed is how many bytes of memory all streams owe their clients, more or less.
func (e *Engine) Owed() int64 { return e.owed.Load() }

// Heartbeat is after how long a silence at most a stream is sent a beat; 0: never.
func (e *Engine) Heartbeat() time.Duration { return e.cfg.Heartbeat }

// enter gives s its place in the table; false once the engine has stopped.
func (e *Engine) enter(s *Stream) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return false
	}
	if !e.started {
		e.started = true
		for _, sh := range e.shards {
			e.background.Go(func() { sh.run(e.stop) })
		}
		e.background.Go(e.tick)
	}
	if n := len(e.free); n > 0 {
		s.key.Place = e.free[n-1]
		e.free = e.free[:n-1]
	} else {
		s.key.Place = uint32(len(e.table))
		e.table = append(e.table, entry{})
	}
	e.table[s.key.Place].stream = s
	s.key.Generation = e.table[s.key.Place].generation
	s.shard = e.shards[int(s.key.Place)%len(e.shards)]
	e.open++
	e.connects++
	return true
}

func (e *Engine) leave(s *Stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.table[s.key.Place].stream = nil
	e.table[s.key.Place].generation++
	e.free = append(e.free, s.key.Place)
	if e.open--; e.open == 0 && e.empty != nil {
		close(e.empty)
		e.empty = nil
	}
}

// at finds the stream that an epoll event is for; nil when that one has ended.
func (e *Engine) at(key tcp.Key) *Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	if int(key.Place) >= len(e.table) || e.table[key.Place].generation != key.Generation {
		return nil
	}
	return e.table[key.Place].stream
}

// part appends the streams in the n-th of so many parts of the table.
func (e *Engine) part(to []*Stream, n, of int) []*Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, entry := range e.table[n*len(e.table)/of : (n+1)*len(e.table)/of] {
		if entry.stream != nil {
			to = append(to, entry.stream)
		}
	}
	return to
}

// later puts s on a list, whose streams all wait for so long.
func (e *Engine) later(list *[]waiting, s *Stream, wait time.Duration) {
	e.lingerMu.Lock()
	defer e.lingerMu.Unlock()
	*list = append(*list, waiting{s, time.Duration(e.clock.Load()) + wait})
}

// due takes off a list those whose time has come.
func (e *Engine) due(list *[]waiting, now time.Duration) []waiting {
	e.lingerMu.Lock()
	defer e.lingerMu.Unlock()
	n := 0
	for n < len(*list) && (*list)[n].until <= now {
		n++
	}
	due := slices.Clone((*list)[:n])
	*list = slices.Delete(*list, 0, n)
	return due
}

func (e *Engine) expire(now time.Duration) {
	for _, w := range e.due(&e.lingers, now) {
		w.stream.abort()
	}
	for _, w := range e.due(&e.watches, now) {
		w.stream.lookAgain()
	}
}

// storm notices when many connects have come and no more come: what they left is
// garbage that Go's runtime would keep for long.
type storm struct {
	connects int
	since    time.Duration
}

func (s *storm) over(e *Engine, now time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.connects != s.connects {
		s.connects, s.since = e.connects, now
		return false
	}
	if e.connects < stormSize || now-s.since < stormQuiet {
		return false
	}
	e.connects, s.connects = 0, 0
	return true
}

// Close waits until every stream has ended, which is for their owner to bring
// about, or ctx has; then it ends those left and the engine's goroutines.
func (e *Engine) Close(ctx context.Context) error {
	err := e.wait(ctx)
	if err != nil {
		for _, s := range e.part(nil, 0, 1) {
			s.abort()
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
		defer cancel()
		e.wait(last)
	}
	e.mu.Lock()
	first := !e.stopped
	e.stopped = true
	e.mu.Unlock()
	if first {
		close(e.stop)
		e.poller.Close()
		e.background.Wait()
	}
	return err
}

func (e *Engine) wait(ctx context.Context) error {
	e.mu.Lock()
	if e.open == 0 {
		e.mu.Unlock()
		return nil
	}
	if e.empty == nil {
		e.empty = make(chan struct{})
	}
	empty := e.empty
	e.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
