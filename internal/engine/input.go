package engine

import (
	"bytes"
	"net/http"
	"sync"
	"time"
)

// Input takes what a stream's client sends on it.
type Input interface {
	// Received takes the next bytes, which are only lent. It may wait: nothing more is read
	// meanwhile, so that the client waits, too. It is not called twice at once, but may be
	// for a while after the stream has ended.
	Received(p []byte)
}

// talk is what a stream has whose client sends on it.
type talk struct {
	input Input // static

	// Guarded by the stream's mu.
	early   []byte // came with the request
	reading bool   // a goroutine reads; if the stream ends meanwhile, it closes the socket
	again   bool   // more has come since that last found nothing
	shut    bool   // our half of the socket, after the last words
	why     error  // it ended without last words
	heardAt int64  // the engine's clock when something last came
	asked   int64  // likewise, when a beat was sent that nothing has come after yet; 0: it has
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
	taken := e.take(w, r, s)
	s.mu.Lock()
	first := &Frame{data: head, chunk: head}
	s.pending = append([]*Frame{first}, s.pending...)
	s.oweLocked(first)
	s.talk.heardAt = e.clock.Load()
	if taken {
		s.input = s.input || len(s.talk.early) > 0
		s.mu.Unlock()
		s.write(nil)
		return
	}
	s.wake = make(chan struct{}, 1)
	s.mu.Unlock()
	s.end(s.serveHijacked(w))
}

// readLocked has what has come read, by one goroutine at a time.
func (s *Stream) readLocked() {
	if s.talk.reading {
		s.talk.again = true
		return
	}
	s.talk.reading = true
	s.engine.background.Go(s.read)
}

// inputs are what is read into.
var inputs = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// read reads until nothing more is there.
func (s *Stream) read() {
	buf := inputs.Get().(*[4 << 10]byte)
	defer inputs.Put(buf)
	s.receivedEarly()
	for {
		n, err := receive(int(s.fd), buf[:])
		switch {
		case err == nil && n > 0:
			s.heard(buf[:n])
		case err == nil: // a client that only closes its half is taken as leaving, too
			err = ErrGone
		case err != errFull:
			err = s.lost(err)
		}
		if s.readOn(err) {
			continue
		}
		if err != nil && err != errFull {
			s.breakOff(err)
		}
		return
	}
}

// readOn says whether there may be more to read after what came of reading. If not, it has
// another goroutine read, if more comes, and closes the socket of a stream that has ended.
func (s *Stream) readOn(err error) bool {
	s.mu.Lock()
	over := s.state == ended
	on := !over && (err == nil || err == errFull && s.talk.again)
	s.talk.again = false
	s.talk.reading = on
	s.mu.Unlock()
	if over {
		closeSocket(int(s.fd))
	}
	return on
}

// receivedEarly gives what came with the request.
func (s *Stream) receivedEarly() {
	s.mu.Lock()
	early := s.talk.early
	s.talk.early = nil
	s.mu.Unlock()
	if len(early) > 0 {
		s.heard(early)
	}
}

// heard gives what the client has sent, unless the stream was broken off.
func (s *Stream) heard(p []byte) {
	s.mu.Lock()
	s.talk.heardAt, s.talk.asked = s.engine.clock.Load(), 0
	over := s.abrupt
	s.mu.Unlock()
	if !over {
		s.talk.input.Received(p)
	}
}

// breakOff ends the stream without last words.
func (s *Stream) breakOff(why error) {
	s.mu.Lock()
	if s.talk.why == nil {
		s.talk.why = why
	}
	s.mu.Unlock()
	s.abort()
}

// brokenLocked is why a stream ends without last words.
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
		shutdown(int(s.fd))
		s.engine.later(&s.engine.lingers, s, linger)
	}
	return true
}

// answersLocked says, of a stream whose client is to answer heartbeats, whether it is to be
// sent one now though it was written to lately, and whether it has left too many unanswered.
func (t *talk) answersLocked(now, heartbeat time.Duration) (ask, gone bool) {
	if t == nil {
		return false, false
	}
	ask = time.Duration(t.heardAt) <= now-heartbeat*3/4
	return ask, t.asked != 0 && now-time.Duration(t.asked) >= missed*heartbeat
}

// serveHijacked keeps the handler, and has another goroutine read.
func (s *Stream) serveHijacked(w http.ResponseWriter) error {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return ErrGone
	}
	defer conn.Close()
	conn.SetDeadline(time.Time{})
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	s.mu.Lock()
	s.talk.early = bytes.Clone(early)
	s.mu.Unlock()
	left := make(chan struct{})
	go func() {
		defer close(left)
		s.receivedEarly()
		buf := make([]byte, 4<<10)
		for {
			n, err := conn.Read(buf)
			if n > 0 {
				s.heard(buf[:n])
			}
			if err != nil {
				s.breakOff(ErrGone)
				return
			}
		}
	}()
	err = s.plain(sink{
		write:    func(p []byte) error { _, err := conn.Write(p); return err },
		deadline: conn.SetWriteDeadline,
		gone:     left,
	})
	s.mu.Lock()
	abrupt := s.abrupt
	s.mu.Unlock()
	if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil && !abrupt {
		half.CloseWrite()
		select {
		case <-left:
		case <-time.After(linger):
		}
	}
	conn.Close()
	<-left
	return err
}
