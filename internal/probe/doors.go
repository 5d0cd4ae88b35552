package probe

import (
	"net/http"
	"strings"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/answer"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door/socket"
	"realtimehub/internal/lobby"
)

// ByDoctor serves the doctor's requests by a door, and those of others. Nothing but the query
// tells them apart, so that a proxy treats both alike.
func ByDoctor(examine, others http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, "doctor=") && r.URL.Query().Get("doctor") == "true" {
			examine(w, r)
		} else {
			others(w, r)
		}
	}
}

// Socket makes a handler that is Serve for WebSockets.
func (s *Server) Socket(encoding delivery.Encoding) func(http.ResponseWriter, *http.Request, *access.Caller) error {
	return func(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
		if err := socket.Check(r, ""); err != nil {
			return err
		}
		stream, err := s.open(r, who, encoding)
		if err != nil {
			return err
		}
		stream.Listen(deaf{})
		s.streams.Engine().ServeSocket(w, r, stream, socket.Head(r, ""))
		return nil
	}
}

// deaf is the engine.Input of a probe, whose client answers pings and says nothing else.
type deaf struct{}

func (deaf) Received([]byte) {}
func (deaf) Ended()          {}

// writeTime is how long a client has to read an answer.
const writeTime = 30 * time.Second

// Poll answers without a content once the time of the probe is over, as a poll is answered to which
// nothing comes.
func (s *Server) Poll(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	p, err := parse(r.URL.RawQuery)
	if err != nil {
		return err
	}
	over, err := s.take(r, who.Holder(r))
	if err != nil {
		return err
	}
	defer over()
	defer lobby.Pause(r)()
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // the server's own is for requests
	rc.SetWriteDeadline(time.Time{})
	err = nil
	select {
	case <-time.After(p.lasts):
	case <-endOf(who.Expires()):
		err = access.ErrExpired
	case <-s.streams.Drained():
	case <-r.Context().Done():
	}
	rc.SetWriteDeadline(time.Now().Add(writeTime))
	if err != nil {
		return err
	}
	return answer.NoContent(w)
}

// Reached answers at once: that a request has come is all there is to say.
func (s *Server) Reached(w http.ResponseWriter, r *http.Request, _ *access.Caller) error {
	return answer.NoContent(w)
}
