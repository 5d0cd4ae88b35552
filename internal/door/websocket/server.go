package websocket

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/lobby"
)

// Open opens a connection for a request's client, for which over has to be called once the request
// is. A *delivery.TurnedAway says that the hub takes none now, and any other error what is wrong
// with the request.
type Open func(r *http.Request, query url.Values, who *access.Caller, encoding delivery.Encoding, cursor string) (c *delivery.Connection, over func(), err error)

// Server opens sockets.
type Server struct {
	// Static.
	open    Open
	streams *delivery.Streams
	verbs   *client.Verbs
	quotas  *allowance.Pools
	logger  *slog.Logger
}

// New makes a Server.
func New(open Open, streams *delivery.Streams, verbs *client.Verbs, quotas *allowance.Pools, logger *slog.Logger) *Server {
	return &Server{open: open, streams: streams, verbs: verbs, quotas: quotas, logger: logger}
}

// Serve answers a request for an upgrade, and has the socket served.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if err := Check(r); err != nil {
		return err
	}
	query := r.URL.Query()
	c, over, err := s.open(r, query, who, Encoding{}, query.Get("cursor"))
	if away, ok := errors.AsType[*delivery.TurnedAway](err); ok {
		s.TurnAway(w, r, away)
		return nil
	}
	if err != nil {
		return err
	}
	defer over()
	defer lobby.Away(r)() // it is counted as a stream
	c.Stream.Listen(&session{server: s, conn: c, holder: who.Holder(r), place: lobby.PlaceOf(r)})
	s.streams.Engine().ServeSocket(w, r, c.Stream, head(r))
	return nil
}

// farewell is how long a client that is turned away has for what it is told.
const farewell = 5 * time.Second

// TurnAway answers a request for an upgrade, if it is one, with hub.closing and a close frame;
// false leaves the request as it was.
func (s *Server) TurnAway(w http.ResponseWriter, r *http.Request, away *delivery.TurnedAway) bool {
	if Check(r) != nil {
		return false
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(farewell))
	conn.Write(s.streams.Encoder(Encoding{}).AppendTurnedAway(head(r), away))
	return true
}
