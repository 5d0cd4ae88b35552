// Package roomtest is a membership service for tests: a [Service] is a transport for
// room.NewService, without a network, or a handler of an HTTP server. It does not know room,
// so room's own tests use it too.
package roomtest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
)

// Service answers with the same members for every room. While it is in use its fields are
// changed by [Service.Set].
type Service struct {
	Members string        // as in JSON, without brackets
	Cache   []string      // the answer's Cache-Control
	Gate    chan struct{} // an answer waits for it; nil: none does

	mu     sync.Mutex // guards all fields
	asked  int
	asking int // now
	most   int // at a time
}

// Set changes the service between two questions.
func (s *Service) Set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Questions is how many there were.
func (s *Service) Questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// MostAtOnce is how many questions were under way at a time, at most.
func (s *Service) MostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Forget has it count from 0 on.
func (s *Service) Forget() {
	s.Set(func() { s.asked, s.most = 0, 0 })
}

// RoundTrip implements http.RoundTripper.
func (s *Service) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked++
	s.asking++
	s.most = max(s.most, s.asking)
	gate := s.Gate
	members := s.Members // as of now: the answer may be long under way
	cache := s.Cache
	s.mu.Unlock()
	defer s.Set(func() { s.asking-- })
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	w := httptest.NewRecorder()
	w.Header()["Cache-Control"] = cache
	fmt.Fprintf(w, `{"members":[%s]}`, members)
	return w.Result(), nil
}

// ServeHTTP is the same with a network.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	res, err := s.RoundTrip(r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	io.Copy(w, res.Body)
}

// Transport is a service that a function is.
type Transport func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }
