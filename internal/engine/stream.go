package engine

import (
	"sync"

	"realtimehub/internal/tcp"
)

// state says who has the claim of a stream: only who has it may touch the
// socket. It passes from one holder to the next, each under the stream's mu.
type state uint8

const (
	starting state = iota // who made it, until its head is written
	idle                  // nobody; nothing is owed
	gathered              // a Batch that is not flushed yet
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
	chunked bool          // its body is of chunks, which we write ourselves
	wake    chan struct{} // plain path: one token, there is something to write
	shard   *shard        // writes it, but on the plain path
	socket  tcp.Socket    // if it is taken; written to by the holder of the claim only
	key     tcp.Key       // its place in the engine's table
	talk    *talk         // nil: its client sends nothing

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
	over    bool // past the buffer and blocked, and shed for it
	watched bool // to be looked at again for that

	more     func() bool
	received uint32 // bytes that came in after the request
	taken    int32  // frames at the front that are being written: they stay
	offset   int32  // bytes of the first frame that are written
	owed     int    // bytes of the frames that are not written whole
	wroteAt  int64  // the engine's clock
	pending  []*Frame
	next     *Stream // in the list that has the claim
}

// NewOwned makes a stream.
func (e *Engine) NewOwned(owner Owner) *Stream { return &Stream{engine: e, owner: owner} }

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

// blockedLocked says that what is owed waits for the client, and not for us.
func (s *Stream) blockedLocked() bool {
	return s.state == blocked || s.state == starting || s.state == writing && s.wake != nil
}

// closeLocked has the stream end after what is pending and one last frame.
func (s *Stream) closeLocked(last *Frame) {
	s.closed = true
	s.pending = append(s.pending, last, s.engine.lastChunk)
	s.oweLocked(last)
	s.oweLocked(s.engine.lastChunk)
	s.lingerLocked()
}

// lingerLocked gives a closed stream whose client does not read a last while.
func (s *Stream) lingerLocked() {
	if s.closed && s.state == blocked && !s.lingers {
		s.lingers = true
		s.engine.later(&s.engine.lingers, s, s.engine.cfg.Linger)
	}
}

// Close ends the stream after what is pending and one last frame. A client that
// does not read has a few seconds for that.
func (s *Stream) Close(last *Frame) {
	s.mu.Lock()
	wake := false
	if !s.closed {
		s.closeLocked(last)
		wake = s.claimLocked(idle)
	}
	s.mu.Unlock()
	if wake {
		s.engine.schedule(s)
	}
}

// Closed says that nothing is added any more.
func (s *Stream) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
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

// end is the last a stream hears of its holder.
func (s *Stream) end(why error) {
	s.socket.End()
	s.mu.Lock()
	s.state, s.closed = ended, true
	s.forgiveLocked(s.pending...)
	drop := DropGone
	if s.cut || why == ErrSlow {
		why, drop = ErrSlow, DropCut
	}
	s.engine.losses.drop(drop, s.pending...)
	s.pending, s.more = nil, nil
	reading := s.talk != nil && s.talk.reading // who reads closes the socket
	s.mu.Unlock()
	if s.socket.Taken() && !reading {
		s.socket.Close()
	}
	if s.talk != nil && !reading {
		s.talk.input.Ended()
	}
	s.owner.Gone(why)
	s.engine.leave(s) // last: Engine.Close waits until all has been said
}
