package sse

import (
	"net/http"
	"time"
)

// writeTimeout bounds one write to one client; no other client feels it.
const writeTimeout = 15 * time.Second

// Header sets what an event stream needs to come through: no cache, no proxy
// buffer (nginx reads X-Accel-Buffering), no transformation.
func Header(h http.Header) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-store, no-transform")
	h.Set("X-Accel-Buffering", "no")
	h.Set("Connection", "close") // the end of a stream is the end of its connection
}

// Serve writes s as the answer to r until the client leaves, the stream is
// closed or a write fails; then it calls the stream's gone.
func (e *Engine) Serve(w http.ResponseWriter, r *http.Request, s *Stream) {
	s.gone(e.serve(w, r, s))
}

func (e *Engine) serve(w http.ResponseWriter, r *http.Request, s *Stream) error {
	Header(w.Header())
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	write := func(p []byte) error {
		rc.SetWriteDeadline(time.Now().Add(writeTimeout)) // not supported: the server's own holds
		if _, err := w.Write(p); err != nil {
			return err
		}
		return rc.Flush() // a failed write may show here only
	}
	var silence *time.Timer
	var heartbeat <-chan time.Time
	if e.Heartbeat > 0 {
		silence = time.NewTimer(e.Heartbeat)
		defer silence.Stop()
		heartbeat = silence.C
	}
	var buf []byte
	for {
		written := len(buf)
		if cap(buf) > 2*chunk {
			buf = nil // one large event must not be paid for as long as the stream lives
		}
		var done bool
		if buf, done = s.take(buf[:0], written); len(buf) > 0 {
			if write(buf) != nil {
				return s.verdict()
			}
			if silence != nil {
				silence.Reset(e.Heartbeat)
			}
			if !done {
				continue
			}
		}
		if done {
			if s.wasCut() {
				return ErrSlow
			}
			return nil
		}
		select {
		case <-s.wake:
		case <-heartbeat:
			if write([]byte(":\n\n")) != nil {
				return s.verdict()
			}
			silence.Reset(e.Heartbeat)
		case <-r.Context().Done():
			return ErrGone
		}
	}
}

// verdict tells a client that was cut while it did not read from one that left.
func (s *Stream) verdict() error {
	if s.wasCut() {
		return ErrSlow
	}
	return ErrGone
}
