package engine

import (
	"slices"
	"sync"
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
	chunked    bool          // its body is of chunks, which we write ourselves
	wake       chan struct{} // plain path: one token, there is something to write
	shard      *shard        // writes it, but on the plain path
	fd         int32         // written to by the holder of the claim only
	place      uint32        // in the engine's table
	generation uint32        // of that place
	talk       *talk         // nil: its client sends nothing

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

// Owner is who a stream is of. It is called with no lock held, but for Group.
type Owner interface {
	// Gone is called once, when the stream has ended and nothing will be written any
	// more.
	Gone(why error)
	// Beat is called about once a heartbeat, to send what the client should have: the
	// frame beat or better after a silence. beat is nil where there was none.
	Beat(s *Stream, d *Batch, beat *Frame)
	// Words are those that the engine says on the stream. They do not change.
	Words() *Words
	// Group names those whose streams are relieved together when all owe too much, before
	// any other's are. It is called with locks held, and does not change.
	Group() string
}

// Words are what an engine says by itself, in the encoding of the streams that share them.
type Words struct {
	Beat *Frame        // says that the stream is alive, and is no event
	Shed *Frame        // tells a client that ephemeral frames were shed
	Cut  func() *Frame // last words to a client that is cut as slow
}

// NewOwned makes a stream.
func (e *Engine) NewOwned(owner Owner) *Stream { return &Stream{engine: e, owner: owner, fd: -1} }

// NewStream is NewOwned of who knows nothing better than the beat, and is told when the
// stream is gone.
func (e *Engine) NewStream(words *Words, gone func(why error)) *Stream {
	return e.NewOwned(nobody{words, gone})
}

// nobody is the Owner of a stream that is no connection's.
type nobody struct {
	words *Words
	gone  func(why error)
}

// Gone implements Owner.
func (n nobody) Gone(why error) { n.gone(why) }

// Words implements Owner.
func (n nobody) Words() *Words { return n.words }

// Beat implements Owner.
func (nobody) Beat(s *Stream, d *Batch, beat *Frame) {
	if beat != nil {
		d.Send(s, beat)
	}
}

// Group implements Owner: all of this kind are one.
func (nobody) Group() string { return "" }

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

// listed is what a frame takes in one stream's list, in bytes: a pointer, and as
// much again for the room that lists have to grow.
const listed = 16

// oweLocked counts a frame that is added to what is owed, and returns the bytes that
// this takes.
func (s *Stream) oweLocked(f *Frame) (taken int64) {
	s.owed += f.Len()
	taken = f.owe(1) + listed
	s.engine.owed.Add(taken)
	return taken
}

// forgiveLocked counts frames that are taken off what is owed, written or not, and
// returns the bytes that this frees.
func (s *Stream) forgiveLocked(frames ...*Frame) (freed int64) {
	for _, f := range frames {
		s.owed -= f.Len()
		freed += listed - f.owe(-1)
	}
	s.engine.owed.Add(-freed)
	return freed
}

// shedLocked drops the ephemeral frames from a place on, which is after those taken, and
// says so in their place. It returns the bytes that this frees, and whether there were any.
func (s *Stream) shedLocked(from int, why Drop) (freed int64, some bool) {
	kept := s.pending[:from]
	for _, f := range s.pending[from:] {
		if !f.ephemeral {
			kept = append(kept, f)
			continue
		}
		some = true
		freed += s.forgiveLocked(f)
		s.engine.losses.drop(why, f)
		if !s.shed {
			s.shed = true
			s.engine.losses.shed.Add(1)
			kept = append(kept, s.owner.Words().Shed)
			freed -= s.oweLocked(s.owner.Words().Shed)
		}
	}
	clear(s.pending[len(kept):])
	s.pending = kept
	return freed, some
}

// cutLocked ends a slow stream with the cut's last words; the rest can be had
// by resuming. It returns the bytes that this frees, without those of the words.
func (s *Stream) cutLocked() (freed int64) {
	freed = s.forgiveLocked(s.pending[s.taken:]...)
	s.engine.losses.drop(DropCut, s.pending[s.taken:]...)
	s.pending = slices.Clone(s.pending[:s.taken])
	s.cut = true
	s.closeLocked(s.owner.Words().Cut())
	return freed
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
		s.engine.later(&s.engine.lingers, s, linger)
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

// wire is f as s's client is sent it.
func (s *Stream) wire(f *Frame) []byte {
	if s.chunked {
		return f.chunk
	}
	return f.data
}

// peekLocked is what to write next: one frame as it is, or several copied to buf,
// which has room for a chunk. They stay pending until advanceLocked.
func (s *Stream) peekLocked(buf func() []byte) []byte {
	if len(s.pending) == 0 {
		return nil
	}
	s.taken = 1
	first := s.wire(s.pending[0])[s.offset:]
	if len(s.pending) == 1 || len(first)+len(s.wire(s.pending[1])) > chunk {
		return first
	}
	b := append(buf()[:0], first...)
	for _, f := range s.pending[1:] {
		data := s.wire(f)
		if len(b)+len(data) > chunk {
			break
		}
		b = append(b, data...)
		s.taken++
	}
	return b
}

// advanceLocked takes off what was written, and returns what that was.
func (s *Stream) advanceLocked(n int) (w written) {
	if n > 0 {
		s.wroteAt = s.engine.clock.Load()
	}
	n += int(s.offset)
	whole := 0
	for _, f := range s.pending {
		size := len(s.wire(f))
		if n < size {
			break
		}
		n -= size
		s.shed = s.shed && f != s.owner.Words().Shed
		if f.events > 0 {
			w.events += int(f.events)
			if w.since.IsZero() { // what follows was published later
				w.since = f.since
			}
		}
		whole++
	}
	s.forgiveLocked(s.pending[:whole]...)
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
	s.forgiveLocked(s.pending...)
	drop := DropGone
	if s.cut || why == ErrSlow {
		why, drop = ErrSlow, DropCut
	}
	s.engine.losses.drop(drop, s.pending...)
	s.pending, s.more = nil, nil
	reading := s.talk != nil && s.talk.reading // who reads closes the socket
	s.mu.Unlock()
	if s.fd >= 0 && !reading {
		closeSocket(int(s.fd))
	}
	s.owner.Gone(why)
	s.engine.leave(s) // last: Engine.Close waits until all has been said
}
