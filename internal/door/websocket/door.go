package websocket

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/door/socket"
	"realtimehub/internal/lobby"
)

// Door opens sockets.
type Door struct {
	// Static.
	doors  *door.Opener
	verbs  *client.Verbs
	logger *slog.Logger
}

// New makes a Door.
func New(doors *door.Opener, verbs *client.Verbs, logger *slog.Logger) *Door {
	return &Door{doors: doors, verbs: verbs, logger: logger}
}

// Subprotocols that clients name.
const (
	subprotocol = "realtime.v1" // is chosen
	bearer      = "bearer."     // followed by a token: a page can send no header
)

// Check says what is wrong with a request for an upgrade.
func Check(r *http.Request) error { return socket.Check(r, subprotocol) }

// Authorize puts the token that a request has among its subprotocols where other requests have it.
func Authorize(r *http.Request) {
	for _, offered := range socket.Offered(r) {
		if token, ok := strings.CutPrefix(offered, bearer); ok {
			r.Header["Authorization"] = append(r.Header["Authorization"], "Bearer "+token)
		}
	}
}

// Serve answers a request for an upgrade, and has the socket served.
func (d *Door) Serve(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if err := Check(r); err != nil {
		return err
	}
	sub, query, err := door.Read(r, who)
	if err != nil {
		return err
	}
	sub.Transport, sub.Encoding, sub.Cursor = delivery.TransportWebSocket, Encoding{}, query.Get("cursor")
	engine := d.doors.Streams.Engine()
	c, stream, over, err := d.doors.Open(r, sub, !engine.Takes(r))
	if err != nil {
		d.TurnAway(w, r, d.doors.TurnedAway(sub.Tenant, err))
		return nil
	}
	defer over()
	defer lobby.Away(r)() // it is counted as a stream
	s := &session{door: d}
	s.socket = socket.NewSession(d.doors, c, lobby.PlaceOf(r), who.Proven(), s)
	stream.Listen(&s.socket)
	engine.ServeSocket(w, r, stream, socket.Head(r, subprotocol))
	return nil
}

// farewell is how long a client that is turned away has for what it is told.
const farewell = 5 * time.Second

// TurnAway answers a request that Check has nothing against with hub.closing and a close frame.
func (d *Door) TurnAway(w http.ResponseWriter, r *http.Request, away *delivery.TurnedAway) {
	opened := socket.Open(w, r, subprotocol, farewell)
	defer opened.Close()
	opened.EndSoon(d.doors.Streams.Encoder(Encoding{}).AppendTurnedAway(nil, away))
}
