package sse

import "sync"

// state says who has the claim of a stream: only who has it may touch the
// socket. It passes from one holder to the next, each under the stream's mu.
type state uint8

const (
	starting state = iota // who made it, until its head is written
	idle                  // nobody; nothing is owed
	gathered              // a Delivery that is not flushed yet
	ready                 // the list of its shard; on the plain path its handler, woken
	writing               // who writes
	blocked               // epoll: the socket is full
	ended                 // nobody, for good
)

// Stream is what one client is owed. It is made before its head is written, so
// that nothing sent meanwhile is lost; [Engine.Serve] writes it.
type Stream struct {
	// Static.
	engine *Engine
	owner  Owner

	// Static once it is served.
	wake       chan struct{} // plain path: one token, there is something to write
	shard      *shard        // else
	fd         int32         // touched by the holder of the claim only
	place      uint32        // in the engine's table
	generation uint32        // of that place

	mu    sync.Mutex
	state state // guarded by mu, as is all that follows

	closed  bool // nothing is added any more; what is pending are the last words
	cut     bool // closed for slowness
	shed    bool // the engine's Shed is pending
	input   bool // epoll saw input or the end of it
	lingers bool // closed, with a deadline
	abrupt  bool // to be ended without last words
	feeding bool // more is being called, or about to be
	silent  bool // no heartbeats

	more     func() bool
	received uint32 // bytes that came in after the request
	taken    int32  // frames at the front that are being written: they stay
	offset   int32  // bytes of the first frame that are written
	owed     int    // bytes
	wroteAt  int64  // the engine's clock
	pending  []*Frame
	next     *Stream // in the list that has the claim
}

// Owner is who a stream is of. It is called with no lock held.
type Owner interface {
	// Gone is called once, when the stream has ended and nothing will be written any
	// more.
	Gone(why error)
	// Beat is called about once a heartbeat, to send what the client should have: the
	// comment or better after a silence. comment is nil where there was none.
	Beat(s *Stream, d *Delivery, comment *Frame)
}

// NewStream makes a stream.
func (e *Engine) NewStream(owner Owner) *Stream { return &Stream{engine: e, owner: owner, fd: -1} }

// OnGone is an Owner that knows nothing better than the comment, and is told when its
// stream is gone; nil does not care.
type OnGone func(why error)

// Gone implements Owner.
func (f OnGone) Gone(why error) {
	if f != nil {
		f(why)
	}
}

// Beat implements Owner.
func (OnGone) Beat(s *Stream, d *Delivery, comment *Frame) {
	if comment != nil {
		d.Send(s, comment)
	}
}

// Feed has more called whenever all that s is owed is written, to send it more,
// until it returns false: so what a client is to have is made as it takes it.
// more may wait, and is not called twice at once. Feed comes before Serve.
func (s *Stream) Feed(more func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.more = more
}

// Silence spares s the heartbeats, for who wants to know what becomes of a silent
// stream. It comes before Serve.
func (s *Stream) Silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = true
}

// hungryLocked has a stream that owes nothing fed, if it is to be.
func (s *Stream) hungryLocked() {
	if s.more != nil && !s.feeding {
		s.feeding = true
		more := s.more
		s.engine.background.Go(func() { s.feed(more) })
	}
}

func (s *Stream) feed(more func() bool) {
	for hungry := true; hungry; {
		goOn := more()
		s.mu.Lock()
		if !goOn || s.closed {
			s.more = nil
		}
		hungry = s.more != nil && len(s.pending) == 0
		s.feeding = hungry
		s.mu.Unlock()
	}
}

// Delivery gathers what one publish hands to streams of one engine: Send under
// the lock that orders publishes, Flush after it is released. The zero value is ready.
type Delivery struct {
	engine *Engine
	lists  [maxShards]list // of the streams claimed
	plain  list
	count  int // streams in lists
	owed   int
}

// few streams are written to at once by who publishes; more are for the writers.
const few = 4

// Send adds f to what s is owed. It never waits.
func (d *Delivery) Send(s *Stream, f *Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.engine.losses.drop(DropClosed, f)
		return
	}
	d.engine = s.engine
	s.pending = append(s.pending, f)
	s.owed += len(f.data)
	d.owed += len(f.data)
	switch {
	case s.state != idle:
		s.boundLocked()
	case s.wake != nil:
		s.state = gathered
		d.plain.add(s)
	default:
		s.state = gathered
		d.lists[s.shard.index].add(s)
		d.count++
	}
}

// Flush lets the writers go, and relieves the streams that are owed too much.
// It does not wait for a client, but calls gone when it finds one that left: so
// no lock may be held.
func (d *Delivery) Flush() {
	if d.engine == nil {
		return
	}
	if d.count > few {
		d.hand()
	} else {
		d.flushPlain()
		for i := range d.lists {
			for s := d.lists[i].take(); s != nil; s = d.lists[i].take() {
				s.write(nil)
			}
		}
	}
	d.engine.relieve()
	*d = Delivery{}
}

// hand gives all streams to the writers.
func (d *Delivery) hand() {
	if d.engine == nil {
		return
	}
	d.flushPlain()
	for i, sh := range d.engine.shards {
		sh.push(&d.lists[i])
	}
}

func (d *Delivery) flushPlain() {
	d.engine.owed.Add(int64(d.owed))
	d.owed = 0
	for s := d.plain.take(); s != nil; s = d.plain.take() {
		s.mu.Lock()
		if s.state == gathered {
			s.state = ready
		}
		s.mu.Unlock()
		s.signal()
	}
}

// blockedLocked says that what is owed waits for the client, and not for us.
func (s *Stream) blockedLocked() bool {
	return s.state == blocked || s.state == starting || s.state == writing && s.wake != nil
}

// boundLocked relieves a stream whose client does not read. One that is healthy
// may be owed any amount: we have not offered it yet.
func (s *Stream) boundLocked() {
	limit := s.engine.cfg.Buffer
	if limit <= 0 || s.closed || s.owed <= limit || !s.blockedLocked() {
		return
	}
	s.shedLocked(DropSlow)
	if s.owed > limit {
		s.cutLocked()
	}
}

// oweLocked changes what is owed.
func (s *Stream) oweLocked(n int) {
	s.owed += n
	s.engine.owed.Add(int64(n))
}

// shedLocked drops the ephemeral frames, and says so in their place.
func (s *Stream) shedLocked(why Drop) {
	kept := s.pending[:s.taken]
	for _, f := range s.pending[s.taken:] {
		if !f.ephemeral {
			kept = append(kept, f)
			continue
		}
		s.oweLocked(-len(f.data))
		s.engine.losses.drop(why, f)
		if !s.shed {
			s.shed = true
			s.engine.losses.shed.Add(1)
			kept = append(kept, s.engine.cfg.Shed)
			s.oweLocked(len(s.engine.cfg.Shed.data))
		}
	}
	clear(s.pending[len(kept):])
	s.pending = kept
}

// cutLocked ends a slow stream with the cut's last words; the rest can be had
// by resuming.
func (s *Stream) cutLocked() {
	for _, f := range s.pending[s.taken:] {
		s.oweLocked(-len(f.data))
	}
	s.engine.losses.drop(DropCut, s.pending[s.taken:]...)
	last := s.engine.cfg.Cut()
	s.pending = append(append([]*Frame(nil), s.pending[:s.taken]...), last)
	s.oweLocked(len(last.data))
	s.closed, s.cut = true, true
	s.lingerLocked()
}

// lingerLocked gives a closed stream whose client does not read a last while.
func (s *Stream) lingerLocked() {
	if s.closed && s.state == blocked && !s.lingers {
		s.lingers = true
		s.engine.lingerFor(s)
	}
}

// Close ends the stream after what is pending and one last frame. A client that
// does not read has a few seconds for that.
func (s *Stream) Close(last *Frame) {
	s.mu.Lock()
	wake := false
	if !s.closed {
		s.closed = true
		s.pending = append(s.pending, last)
		s.oweLocked(len(last.data))
		s.lingerLocked()
		wake = s.claimLocked(idle)
	}
	s.mu.Unlock()
	if wake {
		s.engine.schedule(s)
	}
}

// abort ends the stream without last words.
func (s *Stream) abort() {
	s.mu.Lock()
	s.abrupt, s.closed = true, true
	wake := s.claimLocked(idle) || s.claimLocked(blocked)
	s.mu.Unlock()
	if wake {
		s.engine.schedule(s)
	}
}

// claimLocked takes the claim from a state in which nobody writes.
func (s *Stream) claimLocked(from state) bool {
	if s.state != from {
		return false
	}
	s.state = ready
	return true
}

// schedule gives a stream that was claimed to its writer.
func (e *Engine) schedule(s *Stream) {
	if s.wake != nil {
		s.signal()
		return
	}
	var one list
	one.add(s)
	s.shard.push(&one)
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// chunk is how much is copied together for one write, at most.
const chunk = 64 << 10

// peekLocked is what to write next: one frame as it is, or several copied to buf,
// which has room for a chunk. They stay pending until advanceLocked.
func (s *Stream) peekLocked(buf func() []byte) []byte {
	if len(s.pending) == 0 {
		return nil
	}
	s.taken = 1
	first := s.pending[0].data[s.offset:]
	if len(s.pending) == 1 || len(first)+len(s.pending[1].data) > chunk {
		return first
	}
	b := append(buf()[:0], first...)
	for _, f := range s.pending[1:] {
		if len(b)+len(f.data) > chunk {
			break
		}
		b = append(b, f.data...)
		s.taken++
	}
	return b
}

// advanceLocked takes off what was written, and returns what that was.
func (s *Stream) advanceLocked(n int) (w written) {
	s.oweLocked(-n)
	if n > 0 {
		s.wroteAt = s.engine.clock.Load()
	}
	n += int(s.offset)
	whole := 0
	for _, f := range s.pending {
		if n < len(f.data) {
			break
		}
		n -= len(f.data)
		s.shed = s.shed && f != s.engine.cfg.Shed
		if f.events > 0 {
			w.events += int(f.events)
			if w.since.IsZero() { // what follows was published later
				w.since = f.since
			}
		}
		whole++
	}
	s.offset, s.taken = int32(n), 0
	if n > 0 {
		s.taken = 1
	}
	if whole == len(s.pending) {
		s.pending = nil // an idle stream costs nothing
		return w
	}
	clear(s.pending[:whole])
	s.pending = s.pending[whole:]
	return w
}

// end is the last a stream hears of its holder.
func (s *Stream) end(why error) {
	s.mu.Lock()
	s.state, s.closed = ended, true
	s.oweLocked(-s.owed)
	s.engine.losses.drop(DropGone, s.pending...)
	s.pending, s.more = nil, nil
	if s.cut {
		why = ErrSlow
	}
	s.mu.Unlock()
	if s.fd >= 0 {
		closeSocket(int(s.fd))
	}
	s.owner.Gone(why)
	s.engine.leave(s) // last: Engine.Close waits until all has been said
}
