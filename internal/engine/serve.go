package engine

import (
	"net/http"
	"time"
)

// writeTimeout bounds one write on the plain path; no other client feels it.
const writeTimeout = 15 * time.Second

// Serve writes s as the answer to r, a GET whose header w has, until the client leaves, the stream
// is closed or a write fails; then s's owner is told. Plain HTTP/1 over TCP on
// Linux takes the socket from net/http and Serve returns at once, where
// [ConnContext] is in use; TLS, HTTP/2 and the rest are served until it returns.
func (e *Engine) Serve(w http.ResponseWriter, r *http.Request, s *Stream) {
	if !e.enter(s) {
		s.owner.Gone(ErrGone)
		panic(http.ErrAbortHandler)
	}
	if r.ProtoMajor == 1 { // HTTP/2 would end all of the connection's streams
		w.Header()["Connection"] = []string{"close"} // the end of a stream is the end of its connection
	}
	if e.take(w, r, s) {
		s.mu.Lock()
		s.chunked = r.ProtoAtLeast(1, 1)
		head := head(r, w.Header())
		first := &Frame{data: head, chunk: head}
		s.pending = append([]*Frame{first}, s.pending...)
		s.oweLocked(first)
		s.mu.Unlock()
		s.write(nil)
		return
	}
	s.mu.Lock()
	s.wake = make(chan struct{}, 1)
	s.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // the server's own is for requests
	s.end(s.plain(sink{
		write: func(p []byte) error {
			if _, err := w.Write(p); err != nil {
				return err
			}
			return rc.Flush() // a failed write may show here only
		},
		deadline: rc.SetWriteDeadline, // not supported: the server's own holds
		gone:     r.Context().Done(),
	}))
}

// sink is where a stream is written whose handler stays.
type sink struct {
	write    func(p []byte) error
	deadline func(time.Time) error // of writes
	gone     <-chan struct{}       // closed once the client has left
}

// plain keeps the handler: it waits for what is pending and writes it.
func (s *Stream) plain(to sink) error {
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
			to.deadline(time.Time{}) // HTTP/2 resets a stream whose deadline comes, also one that writes nothing
			select {
			case <-s.wake:
			case <-to.gone:
				return ErrGone
			}
			continue
		}
		s.state = writing
		s.mu.Unlock()

		begun := time.Now()
		to.deadline(begun.Add(writeTimeout))
		err := to.write(data)
		s.mu.Lock()
		if err != nil {
			s.mu.Unlock()
			if time.Since(begun) >= userTimeout { // the kernel's time-out may have told net/http, which reads, and not us
				return ErrSlow
			}
			return ErrGone // how much of it came through is not known
		}
		w := s.advanceLocked(len(data))
		s.mu.Unlock()
		s.tally().count(w)
	}
}
