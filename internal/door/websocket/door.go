package websocket

import (
	"log/slog"
	"net/http"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
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

// Serve answers a request for an upgrade, and has the socket served.
func (d *Door) Serve(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if err := Check(r); err != nil {
		return err
	}
	query := r.URL.Query()
	sub, err := door.Read(r, query, who)
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
	stream.Listen(&session{door: d, conn: c, holder: who.Holder(r), place: lobby.PlaceOf(r)})
	engine.ServeSocket(w, r, stream, head(r))
	return nil
}

// farewell is how long a client that is turned away has for what it is told.
const farewell = 5 * time.Second

// TurnAway answers a request for an upgrade, if it is one, with hub.closing and a close frame;
// false leaves the request as it was.
func (d *Door) TurnAway(w http.ResponseWriter, r *http.Request, away *delivery.TurnedAway) bool {
	if Check(r) != nil {
		return false
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(farewell))
	conn.Write(d.doors.Streams.Encoder(Encoding{}).AppendTurnedAway(head(r), away))
	return true
}
