package ndjson

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"realtimehub/internal/allowance"
)

const writeTimeout = 30 * time.Second

// spool writes answers beside the reading of the body; past its holder's share of the
// memory for answers put waits until the client reads, and gives up after writeTimeout.
type spool struct {
	w      http.ResponseWriter
	memory *allowance.Call // which knows nothing of what is held
	ended  chan struct{}

	mu   sync.Mutex
	cond *sync.Cond
	// Guarded by mu.
	pending []byte
	held    int // bytes, with those that are being written
	closed  bool
	err     error
}

func newSpool(w http.ResponseWriter, memory *allowance.Call) *spool {
	s := &spool{w: w, memory: memory, ended: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	go s.run()
	return s
}

func (s *spool) put(answer any) error {
	line, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && !s.takeLocked(len(line)) {
		s.cond.Wait()
	}
	if s.err == nil {
		s.pending = append(s.pending, line...)
		s.cond.Broadcast()
	}
	return s.err
}

// takeLocked takes memory for n bytes. One line is always taken: the holder's other calls
// may have all of its share.
func (s *spool) takeLocked(n int) bool {
	if s.held == 0 {
		s.memory.Force(int64(n))
	} else if !s.memory.Take(int64(n)) {
		return false
	}
	s.held += n
	return true
}

func (s *spool) giveLocked(n int) {
	s.memory.Give(int64(n))
	s.held -= n
}

func (s *spool) run() {
	defer close(s.ended)
	rc := http.NewResponseController(s.w)
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closed {
			s.cond.Wait()
		}
		data := s.pending
		s.pending = nil
		s.mu.Unlock()
		if len(data) == 0 {
			return
		}
		rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := s.w.Write(data)
		if err == nil {
			err = rc.Flush()
		}
		rc.SetWriteDeadline(time.Time{}) // HTTP/2 resets a stream whose deadline comes, also one that writes nothing
		s.mu.Lock()
		s.giveLocked(len(data))
		if s.err = err; err != nil { // nobody will write what came meanwhile
			s.giveLocked(len(s.pending))
			s.pending = nil
		}
		s.cond.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// finish waits until all answers are written, or cannot be.
func (s *spool) finish() {
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.ended
}
