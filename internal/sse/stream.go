package sse

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// Why a stream ended, as its gone callback is told; nil is for [Stream.Close].
var (
	ErrGone = errors.New("the client went away")
	ErrSlow = errors.New("the client reads too slowly")
)

// Engine holds what all streams share. Its fields are static once streams exist.
type Engine struct {
	Buffer    int           // bytes that a stream may owe before it is cut; 0 lifts the limit
	Heartbeat time.Duration // a comment after so long a silence; 0 sends none
	Shed      *Frame        // tells a client that ephemeral frames were shed
	Cut       func() *Frame // last words to a client that is cut as slow
}

// Stream is what one client is owed. It is made before its head is written, so
// that nothing sent meanwhile is lost; [Engine.Serve] writes it.
type Stream struct {
	// Static.
	engine *Engine
	gone   func(error)
	wake   chan struct{} // one token: there is something to write

	mu sync.Mutex
	// Guarded by mu.
	pending []*Frame // nil while idle
	owed    int      // bytes pending or being written
	touched bool     // in a Delivery that was not flushed yet
	shed    bool     // engine.Shed is pending
	closed  bool     // nothing is added any more; what is pending are the last words
	cut     bool     // closed for slowness
}

// NewStream makes an idle stream. gone is called once, with no lock held, when
// the stream has ended and nothing will be written any more.
func (e *Engine) NewStream(gone func(error)) *Stream {
	return &Stream{engine: e, gone: gone, wake: make(chan struct{}, 1)}
}

// Delivery gathers what one publish hands to streams: Send under the lock that
// orders publishes, Flush after it is released. The zero value is ready.
type Delivery struct{ touched []touch }

type touch struct {
	stream *Stream
	before int // owed when this delivery began: an idle stream may take any amount at once
}

// Send adds f to what s is owed. It never waits.
func (d *Delivery) Send(s *Stream, f *Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if !s.touched {
		s.touched = true
		d.touched = append(d.touched, touch{s, s.owed})
	}
	s.pending = append(s.pending, f)
	s.owed += len(f.data)
}

// Flush lets the writers go, and cuts the streams that fell too far behind.
func (d *Delivery) Flush() {
	for _, t := range d.touched {
		t.stream.mu.Lock()
		t.stream.touched = false
		if limit := t.stream.engine.Buffer; limit > 0 && t.before > 0 && t.stream.owed > limit {
			t.stream.relieveLocked(limit)
		}
		t.stream.mu.Unlock()
		t.stream.signal()
	}
	d.touched = nil
}

// relieveLocked sheds the ephemeral frames and says so in their place; when the
// rest is still too much, the stream ends with the cut's last words.
func (s *Stream) relieveLocked(limit int) {
	kept := s.pending[:0]
	for _, f := range s.pending {
		if !f.ephemeral {
			kept = append(kept, f)
			continue
		}
		s.owed -= len(f.data)
		if !s.shed {
			s.shed = true
			kept = append(kept, s.engine.Shed)
			s.owed += len(s.engine.Shed.data)
		}
	}
	clear(s.pending[len(kept):])
	s.pending = kept
	if s.owed > limit {
		s.cut = true
		s.endLocked(s.engine.Cut())
	}
}

// Close ends the stream after what is pending and one last frame.
func (s *Stream) Close(last *Frame) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		s.pending = append(s.pending, last)
	}
	s.mu.Unlock()
	s.signal()
}

// endLocked drops what is pending: it can be resumed from what was read.
func (s *Stream) endLocked(last *Frame) {
	s.closed = true
	s.pending = []*Frame{last}
	s.owed = len(last.data)
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// chunk is about how much is written at once, so that a slow client's progress
// shows and what it is owed is known.
const chunk = 64 << 10

// take moves about a chunk of what is pending to buf; what was taken before is
// written by now. done says that nothing will follow.
func (s *Stream) take(buf []byte, written int) (_ []byte, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed = max(s.owed-written, 0)
	n := 0
	for n < len(s.pending) && len(buf) < chunk {
		f := s.pending[n]
		buf = append(buf, f.data...)
		s.shed = s.shed && f != s.engine.Shed
		n++
	}
	if s.pending = slices.Delete(s.pending, 0, n); len(s.pending) == 0 {
		s.pending = nil
	}
	return buf, s.closed && s.pending == nil
}

func (s *Stream) wasCut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut
}
