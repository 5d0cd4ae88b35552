package engine

import (
	"net/http"
	"runtime"
	"time"

	"realtimehub/internal/tcp"
)

// Input takes what a stream's client sends on it.
type Input interface {
	// Received takes the next bytes, which are only lent. It may wait: nothing more is read
	// meanwhile, so that the client waits, too. It is not called twice at once, but may be
	// for a while after the stream has ended.
	Received(p []byte)
	// Ended is called once, when the stream has ended and nothing is received any more.
	Ended()
}

// talk is what a stream has whose client sends on it.
type talk struct {
	input Input // static

	// Guarded by the stream's mu.
	reading    bool  // a goroutine reads; if the stream ends meanwhile, it closes the socket
	again      bool  // more has come since that last found nothing
	hungUp     bool  // the client has shut its half, or reset: what is read ends with that
	receives   bool  // the input has what came last, and nothing more is read
	shut       bool  // our half of the socket, after the last words
	unanswered uint8 // beats that were sent since something last came
	why        error // it was broken off, and nobody had closed it
	heardAt    int64 // the engine's clock when something last came
	askedAt    int64 // likewise, when the last beat was sent
}

// missed is how many heartbeats a client that is to answer them may leave unanswered.
const missed = 3

// Listen has what the client sends given to input, and the client answer heartbeats with
// something, whatever it is. It comes before [Engine.ServeSocket].
func (s *Stream) Listen(input Input) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.talk = &talk{input: input}
}

// ServeSocket is Serve for a stream that listens, after head, which is the whole head of the
// answer to r, a request for an upgrade. The client is given a while to end its half after the
// last words.
func (e *Engine) ServeSocket(w http.ResponseWriter, r *http.Request, s *Stream, head []byte) {
	if !e.enter(s) {
		s.owner.Gone(ErrGone)
		panic(http.ErrAbortHandler)
	}
	early, taken := e.take(w, r, s)
	s.mu.Lock()
	first := &Frame{data: head, chunk: head}
	s.pending = append([]*Frame{first}, s.pending...)
	s.oweLocked(first)
	s.talk.heardAt = e.clock.Load()
	if taken {
		if len(early) > 0 || s.socket.Secure() { // a session may have read on
			s.readLocked(early)
		}
		s.mu.Unlock()
		s.write(nil)
		return
	}
	s.mu.Unlock()
	s.end(s.serveHijacked(w))
}

// readLocked has what has come read, after what came earlier, by one goroutine at a time.
func (s *Stream) readLocked(early []byte) {
	if s.talk.reading {
		s.talk.again = true
		return
	}
	s.talk.reading = true
	next := reading{stream: s, early: early}
	select {
	case s.engine.toRead <- next:
	default:
		s.engine.background.Go(func() { s.engine.readOneByOne(next) })
	}
}

// reading is a stream that is to be read, after what came earlier.
type reading struct {
	stream *Stream
	early  []byte
}

// mostResting is how many goroutines wait for more to read. A new one is not free: its stack
// has to grow to what a command takes, which costs as much as the command.
const mostResting = 256

// readOneByOne reads streams, as long as the engine has few others that do.
func (e *Engine) readOneByOne(next reading) {
	for {
		next.stream.read(next.early)
		next = reading{} // who rests keeps no stream alive
		if e.resting.Add(1) > mostResting {
			e.resting.Add(-1)
			return
		}
		select {
		case next = <-e.toRead:
			e.resting.Add(-1)
		case <-e.stop:
			return
		}
	}
}

// read reads until nothing more is there, a little at once. Whoever else can run does so before
// the next is read.
func (s *Stream) read(early []byte) {
	buf := tcp.Inputs.Get().(*[tcp.InputSize]byte)
	defer tcp.Inputs.Put(buf)
	if len(early) > 0 {
		s.heard(early)
	}
	for {
		n, err := s.socket.Receive(buf[:])
		switch {
		case err == nil && n > 0:
			s.heard(buf[:n])
		case err == nil: // a client that only closes its half is taken as leaving, too
			err = ErrGone
		case err != tcp.ErrFull:
			err = s.lost(err)
		}
		if s.readOn(n, err) {
			runtime.Gosched()
			continue
		}
		if err != nil && err != tcp.ErrFull {
			s.breakOff(err)
		}
		return
	}
}

// readOn says whether there may be more to read after n bytes, or an error. If not, it has
// another goroutine read, if more comes, and closes the socket of a stream that has ended.
// What does not fill the buffer was all, but of TLS: epoll tells of what comes later.
func (s *Stream) readOn(n int, err error) bool {
	s.mu.Lock()
	over := s.state == ended
	more := n == tcp.InputSize || n > 0 && s.socket.Secure() || s.talk.again || s.talk.hungUp && err == nil
	on := !over && more && (err == nil || err == tcp.ErrFull)
	s.talk.again = false
	s.talk.reading = on
	s.mu.Unlock()
	if over {
		s.socket.Close()
		s.talk.input.Ended()
	}
	return on
}

// heard gives what the client has sent, unless the stream was broken off.
func (s *Stream) heard(p []byte) {
	s.mu.Lock()
	over := s.abrupt
	s.talk.heardAt, s.talk.unanswered = s.engine.clock.Load(), 0
	s.talk.receives = true
	s.mu.Unlock()
	if !over {
		s.talk.input.Received(p)
	}
	s.mu.Lock()
	s.talk.heardAt, s.talk.receives = s.engine.clock.Load(), false
	s.mu.Unlock()
}

// breakOff ends the stream without more words, for a reason, unless it is closed already: then its
// client goes because it was told to.
func (s *Stream) breakOff(why error) {
	s.mu.Lock()
	if s.talk.why == nil && !s.closed {
		s.talk.why = why
	}
	s.mu.Unlock()
	s.abort()
}

// brokenLocked is why a stream was broken off; nil if it was not, or is closed.
func (s *Stream) brokenLocked() error {
	if s.talk == nil {
		return nil
	}
	return s.talk.why
}

// leaveLocked shuts our half of the socket after the last words, and waits for the client's
// end; false if there is nothing to wait for. The caller has the claim.
func (s *Stream) leaveLocked() bool {
	if s.talk == nil {
		return false
	}
	s.state = idle
	if !s.talk.shut {
		s.talk.shut = true
		s.socket.Shutdown()
		s.engine.later(&s.engine.lingers, s, s.engine.cfg.Linger)
	}
	return true
}

// answersLocked says, of a stream whose client is to answer heartbeats, whether it is to be
// sent one now though it was written to lately, and whether it has left too many unanswered.
// Those are counted: a hub that stood still does not take its own silence for the client's.
// Nor does one that has yet to read what the client may have sent.
func (t *talk) answersLocked(now, heartbeat time.Duration) (ask, gone bool) {
	if t == nil {
		return false, false
	}
	before := int64(now - heartbeat*3/4)
	ask = t.heardAt <= before && t.askedAt <= before
	return ask, ask && t.unanswered >= missed && !t.receives
}

// askedLocked counts a beat that is sent.
func (t *talk) askedLocked(now time.Duration) {
	if t != nil {
		t.askedAt = int64(now)
		t.unanswered = min(t.unanswered+1, missed)
	}
}

// serveHijacked keeps the handler, and has another goroutine read.
func (s *Stream) serveHijacked(w http.ResponseWriter) error {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return ErrGone
	}
	defer conn.Close()
	conn.SetDeadline(time.Time{})
	early := tcp.BufferedIn(rw.Reader)
	left := make(chan struct{})
	go func() {
		defer close(left)
		if len(early) > 0 {
			s.heard(early)
		}
		buf := make([]byte, tcp.InputSize)
		for {
			n, err := conn.Read(buf)
			if n > 0 {
				s.heard(buf[:n])
				runtime.Gosched()
			}
			if err != nil {
				s.breakOff(ErrGone)
				return
			}
		}
	}()
	err = s.hand(toClient{
		write:    func(p []byte) error { _, err := conn.Write(p); return err },
		deadline: conn.SetWriteDeadline,
	}, left)
	s.mu.Lock()
	abrupt := s.abrupt
	s.mu.Unlock()
	if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil && !abrupt {
		half.CloseWrite()
		select {
		case <-left:
		case <-time.After(s.engine.cfg.Linger):
		}
	}
	conn.Close()
	<-left
	return err
}
