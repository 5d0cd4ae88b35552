package engine

import (
	"context"
	"net/http"
	"slices"
	"time"

	"realtimehub/internal/tcp"
)

// writeTimeout bounds one write on the plain path; no other client feels it.
const writeTimeout = 15 * time.Second

// framePiece is how much is written at once over HTTP/2, whose connection keeps the room that the
// largest of its frames took.
const framePiece = 4 << 10

// Serve writes s as the answer to r, a GET whose header w has, until the client leaves, the stream
// is closed or a write fails; then s's owner is told. HTTP/1 over TCP on
// Linux takes the socket from net/http and Serve returns at once, where
// [tcp.ConnContext] and, with TLS, [tcp.Secure] are in use; HTTP/2 and the rest are served until it returns.
func (e *Engine) Serve(w http.ResponseWriter, r *http.Request, s *Stream) {
	if !e.enter(s) {
		s.owner.Gone(ErrGone)
		panic(http.ErrAbortHandler)
	}
	if r.ProtoMajor == 1 { // HTTP/2 would end all of the connection's streams
		w.Header()["Connection"] = []string{"close"} // the end of a stream is the end of its connection
	}
	if early, taken := e.take(w, r, s); taken {
		s.mu.Lock()
		s.received = uint32(len(early))        // a pipelined request: nobody will answer it
		s.input = s.input || s.socket.Secure() // a session may have read on
		s.chunked = r.ProtoAtLeast(1, 1)
		head := head(r, w.Header())
		first := &Frame{data: head, chunk: head}
		s.pending = append([]*Frame{first}, s.pending...)
		s.oweLocked(first)
		s.mu.Unlock()
		s.write(nil)
		return
	}
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // the server's own is for requests
	piece := chunk
	if r.ProtoMajor > 1 {
		piece = framePiece
	}
	s.end(s.hand(toClient{
		write: func(p []byte) error {
			for part := range slices.Chunk(p, piece) {
				if _, err := w.Write(part); err != nil {
					return err
				}
			}
			return rc.Flush() // a failed write may show here only
		},
		deadline: rc.SetWriteDeadline, // not supported: the server's own holds
	}, r.Context().Done()))
}

// Hand gives take all that s is owed, whole frames at a time, until ctx ends, the stream is
// closed or take fails, which [Enough] lets it do in the middle; then s's owner is told. It
// returns then. What take is given is only lent.
func (e *Engine) Hand(ctx context.Context, s *Stream, take func(data []byte) error) {
	if !e.enter(s) {
		s.owner.Gone(ErrGone)
		return
	}
	s.end(s.hand(handed(take), ctx.Done()))
}

// taker takes what a stream is owed whose handler stays.
type taker interface {
	take(data []byte) error
	idle() // nothing is owed now
}

// handed is a taker that nothing holds up.
type handed func(data []byte) error

func (t handed) take(data []byte) error { return t(data) }
func (handed) idle()                    {}

// toClient is a taker that writes to a client.
type toClient struct {
	write    func(p []byte) error
	deadline func(time.Time) error // of writes
}

func (w toClient) take(data []byte) error {
	begun := time.Now()
	w.deadline(begun.Add(writeTimeout))
	switch err := w.write(data); {
	case err == nil:
		return nil
	case time.Since(begun) >= tcp.UserTimeout: // the kernel's time-out may have told net/http, which reads, and not us
		return ErrSlow
	}
	return ErrGone // how much of it came through is not known
}

// idle has no deadline come: HTTP/2 resets a stream whose does, also one that writes nothing.
func (w toClient) idle() { w.deadline(time.Time{}) }

// hand waits for what is pending, and has it taken, until the client has left, which closes gone.
func (s *Stream) hand(to taker, gone <-chan struct{}) error {
	s.mu.Lock()
	s.wake = make(chan struct{}, 1)
	s.mu.Unlock()
	var buf []byte
	room := func() []byte { // for no more than is owed: many may wait at once
		if need := min(s.owed, chunk); cap(buf) < need {
			buf = make([]byte, 0, need)
		}
		return buf
	}
	for {
		s.mu.Lock()
		data := s.peekLocked(room)
		switch {
		case s.abrupt || len(data) == 0 && s.closed:
			defer s.mu.Unlock()
			return s.brokenLocked()
		case len(data) == 0:
			s.state, buf = idle, nil
			s.hungryLocked()
			s.mu.Unlock()
			to.idle()
			select {
			case <-s.wake:
			case <-gone:
				return ErrGone
			}
			continue
		}
		s.state = writing
		s.mu.Unlock()

		if err := to.take(data); err != nil {
			if taken, ok := err.(Enough); ok {
				s.leaveRest(int(taken))
			}
			return err
		}
		s.mu.Lock()
		w := s.advanceLocked(len(data))
		s.mu.Unlock()
		s.tally().count(w)
	}
}

// leaveRest takes off all that is owed, of which the client took so many events. Others that are
// ephemeral are lost to it; what is stored it asks for again.
func (s *Stream) leaveRest(taken int) {
	s.mu.Lock()
	w := written{events: taken}
	for _, f := range s.pending {
		n := min(taken, int(f.events))
		taken -= n
		if n > 0 && w.since.IsZero() {
			w.since = f.since
		}
		if f.ephemeral {
			s.engine.losses.dropped[DropGone].Add(int64(f.events) - int64(n))
		}
	}
	s.forgiveLocked(s.pending...)
	s.pending, s.taken = nil, 0
	s.mu.Unlock()
	s.tally().count(w)
}
