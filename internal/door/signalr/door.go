package signalr

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/answer"
	"realtimehub/internal/client"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/door/socket"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
)

// Presence says what a client may see of others, as a JSON array in their order.
type Presence func(ctx context.Context, tenant string, viewer event.Profile, asked []event.Profile) ([]byte, error)

// Door serves SignalR clients.
type Door struct {
	// Static.
	doors    *door.Opener
	cluster  *cluster.Cluster
	verbs    *client.Verbs
	presence Presence
	keys     Keys
	logger   *slog.Logger
	started  time.Time

	// These guard themselves.
	polls   polls
	opened  opened
	begun   begun
	pings   pings
	shaking *quota.Pool[event.TenantProfile] // sockets that wait for their handshakes
}

// New makes the door of a hub.
func New(doors *door.Opener, cluster *cluster.Cluster, verbs *client.Verbs, presence Presence, keys Keys, logger *slog.Logger) *Door {
	d := &Door{
		doors: doors, cluster: cluster, verbs: verbs, presence: presence, keys: keys, logger: logger, started: time.Now(), pings: pings{find: doors.Streams.ByID},
		shaking: quota.New[event.TenantProfile](0, 0),
	}
	cluster.ServePolls(d.pollFor)
	return d
}

// opening is how long a client may take from negotiating to opening its stream.
const opening = 20 * time.Second

// A transport as clients are told of it.
type offered struct {
	Transport       string   `json:"transport"`
	TransferFormats []string `json:"transferFormats"`
}

// transports are those that a client tries, the best one first.
var transports = []offered{{"WebSockets", []string{"Text"}}, {"ServerSentEvents", []string{"Text"}}, {"LongPolling", []string{"Text"}}}

// negotiated answers a negotiation (TransportProtocols.md, "POST [endpoint-base]/negotiate"). Without
// useStatefulReconnect there is none, also for who asks for it: docs/decisions.md says why.
type negotiated struct {
	NegotiateVersion    int       `json:"negotiateVersion"`
	ConnectionID        string    `json:"connectionId"`
	ConnectionToken     string    `json:"connectionToken"`
	AvailableTransports []offered `json:"availableTransports"`
}

// Negotiate gives a client the name of the session that it is to open. What the stream is to be
// is in the query of each request, and told to be wrong here already.
func (d *Door) Negotiate(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	sub, query, err := door.Read(r, who)
	if err != nil {
		return err
	}
	if query.Get("negotiateVersion") != "1" {
		return &problem.FieldError{Code: problem.CodeInvalidField, Field: "negotiateVersion", Index: -1, Detail: "must be 1"}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	id = d.doors.Streams.Marked(id)
	pass := Pass{Session: id, Tenant: sub.Tenant, Profile: sub.Profile, Opens: time.Now().Add(opening)}
	return answer.JSON(w, http.StatusOK, negotiated{
		NegotiateVersion: 1, ConnectionID: id.String(), ConnectionToken: d.keys.Sign(pass), AvailableTransports: transports,
	})
}

// errNoSession is what a client is told that is to negotiate again.
func errNoSession(why string) error {
	return &problem.Problem{Status: http.StatusNotFound, Code: "ConnectionNotFound", Detail: why}
}

var errEnded = errNoSession("id: this connection has ended")

// pass is what the query's connectionToken says, if it is the caller's own.
func (d *Door) pass(r *http.Request, who *access.Caller) (Pass, error) {
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	tenant, profile, err := who.Client(r, query)
	if err = errors.Join(err, faults.Err()); err != nil {
		return Pass{}, err
	}
	pass, err := d.keys.Open(query.Get("id"))
	switch {
	case err != nil:
		return Pass{}, errNoSession("id: " + err.Error())
	case pass.Tenant != tenant || pass.Profile != profile:
		return Pass{}, errNoSession("id: is another profile's connectionToken")
	}
	return pass, nil
}

// Open serves the GET by which a client opens its stream, or polls it.
func (d *Door) Open(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if socket.Upgrades(r) {
		return d.onSocket(w, r, who)
	}
	pass, err := d.pass(r, who)
	if err != nil {
		return err
	}
	switch {
	case r.Method == http.MethodHead:
		return answer.NoContent(w)
	case Polls(r):
		return d.poll(w, r, pass, who)
	}
	return d.stream(w, r, pass, who)
}

// Polls says that a GET is a poll, and opens no stream.
func Polls(r *http.Request) bool {
	return !socket.Upgrades(r) && !strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// subscription is what a request that opens a session asks of its stream.
func (d *Door) subscription(r *http.Request, pass Pass, who *access.Caller, over Transport) (delivery.Subscription, error) {
	if time.Now().After(pass.Opens) {
		return delivery.Subscription{}, errNoSession("id: " + errLate.Error())
	}
	sub, query, err := door.Read(r, who)
	sub.ID, sub.Transport, sub.Encoding, sub.Cursor = pass.Session, delivery.TransportSignalR, Encoding{over}, query.Get("cursor")
	return sub, err
}

// session is a client's connection, wherever it is.
func (d *Door) session(r *http.Request, pass Pass, who *access.Caller) (c *delivery.Connection, err error) {
	if c = d.doors.Streams.ByID(d.doors.Streams.Marked(pass.Session)); c == nil {
		c, err = d.elsewhere(r, pass, who)
	}
	switch {
	case err != nil:
		return nil, err
	case c == nil || c.Tenant != pass.Tenant || c.Profile != pass.Profile:
		return nil, errEnded
	}
	return c, nil
}

// mayAskAll counts it as a call that all other hubs are asked, before they are.
func (d *Door) mayAskAll(r *http.Request, who *access.Caller) error {
	if d.cluster.Alone() {
		return nil
	}
	return d.verbs.Allow(who.Holder(r))
}

// elsewhere is a session that another hub holds, nil if none does.
func (d *Door) elsewhere(r *http.Request, pass Pass, who *access.Caller) (c *delivery.Connection, err error) {
	if id, ok := d.opened.of(pass.Session); ok {
		if c, err = d.cluster.Find(r.Context(), id.String()); c != nil || err != nil {
			return c, err
		}
	}
	if err := d.mayAskAll(r, who); err != nil {
		return nil, err
	}
	if c, err = d.cluster.FindMarked(r.Context(), pass.Session); c != nil {
		d.opened.add(pass.Session, c.ID)
	}
	return c, err
}

// plain answers with text as SignalR's servers do. The error is that the client has left.
func plain(w http.ResponseWriter, status int, body []byte) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(body))) // it is whole before the handler ends
	w.WriteHeader(status)
	_, err := w.Write(body)
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	return err
}
