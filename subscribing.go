package main

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"realtimehub/internal/access"
	"realtimehub/internal/answer"
	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/door/poll"
	"realtimehub/internal/door/signalr"
	"realtimehub/internal/door/websocket"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/presence"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
	"realtimehub/internal/sse"
	"realtimehub/internal/strictjson"
)

// What opens a stream; these alone take a token in their query, for browsers.
const (
	streamRoute  = "GET /v1/stream"
	socketRoute  = "GET /v1/socket"
	signalrRoute = "GET /signalr"
)

const doctorRoute = "GET /v1/doctor"

func opensStream(pattern string) bool {
	return pattern == streamRoute || pattern == socketRoute || pattern == signalrRoute
}

// isStream says that a request opens a stream, which pays for itself. A poll is a call.
func isStream(pattern string, r *http.Request) bool {
	return opensStream(pattern) && !(pattern == signalrRoute && signalr.Polls(r))
}

// probes is what the doctor examines at the doors: the same routes as their clients', for whoever
// may ask doctorRoute.
func (a *api) probes() map[string]handler {
	onSocket := a.doctor.Socket(websocket.Encoding{})
	return map[string]handler{
		socketRoute: onSocket, signalrRoute: onSocket, "GET /v1/poll": a.doctor.Poll, "POST /signalr/negotiate": a.doctor.Reached,
	}
}

// subscriber does what a person's client may: it opens a stream by one of the doors, adjusts it,
// tells of typing and asks who is there.
type subscriber struct {
	// Static.
	hub     *Hub
	verbs   *client.Verbs
	doors   *door.Opener
	socket  *websocket.Door
	polling *poll.Door
	signalr *signalr.Door
}

func newSubscriber(hub *Hub, auth *access.Auth, limits *access.Rates, cfg APIConfig) *subscriber {
	doors, verbs := &door.Opener{Streams: hub.streams, Quotas: hub.quotas, Returned: hub.cluster.Returned}, client.NewVerbs(hub.cluster, limits, auth)
	return &subscriber{
		hub: hub, verbs: verbs, doors: doors,
		socket:  websocket.New(doors, verbs, cfg.Logger),
		polling: poll.New(doors),
		signalr: signalr.New(doors, hub.cluster, verbs, hub.visible, signalr.NewKeys(cfg.Secrets...), cfg.Logger),
	}
}

func (s *subscriber) stream(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	sub, query, err := door.Read(r, who)
	var faults problem.Faults
	sub.Transport, sub.Encoding = delivery.TransportSSE, sse.Encoding{Unnamed: !door.Flag(&faults, query, "named", true)}
	if err := errors.Join(err, faults.Err()); err != nil {
		return err
	}
	sub.Cursor = sse.CursorOf(r.Header, query)
	sse.Header(w.Header())
	if r.Method == http.MethodHead {
		return nil
	}
	engine := s.hub.streams.Engine()
	_, stream, over, err := s.doors.Open(r, sub, !engine.Takes(r))
	if err != nil {
		s.turnAway(w, r, s.doors.TurnedAway(sub.Tenant, err))
		return nil
	}
	defer over()
	defer lobby.Away(r)() // it is counted as a stream
	engine.Serve(w, r, stream)
	return nil
}

// refuses tells a client on its stream that it is refused, where its door does not tell it by a
// status: a page sees none of a WebSocket's, and stock EventSource gives up on any but 200. Its
// token may be good later.
func (s *subscriber) refuses(w http.ResponseWriter, r *http.Request, pattern string, err error) bool {
	later, ok := errors.AsType[*access.Refusal](err)
	pending := ok && later.Later()
	turnAway := s.turnAway
	switch {
	case pattern == socketRoute && websocket.Check(r) == nil:
		turnAway = s.socket.TurnAway
	case pattern != streamRoute || !pending:
		return false
	}
	away := &delivery.TurnedAway{Reason: delivery.ClosePending}
	if pending {
		away.After = later.After
	} else {
		away.Reason, away.Problem = delivery.CloseRefused, problem.JSON(err)
	}
	s.hub.streams.Refused(away.Reason, err)
	turnAway(w, r, away)
	return true
}

// turnAway answers with a stream of hub.closing alone, for a client to come back after
// some time: stock EventSource gives up for good on any other answer than 200.
func (s *subscriber) turnAway(w http.ResponseWriter, r *http.Request, away *delivery.TurnedAway) {
	sse.Header(w.Header())
	if r.Method == http.MethodHead {
		return
	}
	words := s.hub.streams.Encoder(sse.Encoding{})
	last := words.NewStream(func(error) {})
	last.Close(words.Closing(away.Reason, away.After))
	s.hub.streams.Engine().Serve(w, r, last)
}

// own finds the connection of a client's call, which counts as one of its profile; in
// open mode, where only the connection says whose it is, and it is not this hub's, as
// one of the client's address. It counts before another hub is asked.
func (s *subscriber) own(r *http.Request, who *access.Caller) (*delivery.Connection, error) {
	return s.ownBy(s.hub.cluster.Find, r, who)
}

// ownBy is own with another way to find the connection.
func (s *subscriber) ownBy(find func(ctx context.Context, id string) (*delivery.Connection, error), r *http.Request, who *access.Caller) (*delivery.Connection, error) {
	id := r.PathValue("id")
	c := s.hub.streams.Connection(id)
	holder := who.Holder(r)
	if c != nil && !who.Proven() {
		holder = event.TenantProfile{Tenant: c.Tenant, Profile: c.Profile}
	}
	if err := s.verbs.Allow(holder); err != nil {
		return nil, err
	}
	if c == nil {
		var err error
		if c, err = find(r.Context(), id); err != nil {
			return nil, err
		}
	}
	if c == nil || !who.Is(c.Tenant, c.Profile) {
		return nil, client.ErrNoConnection
	}
	return c, nil
}

// done answers a command that was done.
func done(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	return answer.NoContent(w)
}

// read reads a command from a body.
func (s *subscriber) read(r *http.Request, who *access.Caller, member func(*problem.Faults, string, strictjson.Value)) error {
	memory := s.hub.quotas.Body(who.Holder(r))
	defer memory.Close()
	return request.Small.Object(r, memory, member)
}

// say reads a command about a connection from a body, and has it done.
func (s *subscriber) say(w http.ResponseWriter, r *http.Request, who *access.Caller, c *delivery.Connection, command client.Command) error {
	if err := s.read(r, who, command.Field); err != nil {
		return err
	}
	return done(w, command.Do(r.Context(), s.verbs, c))
}

func (s *subscriber) touch(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if err != nil {
		return err
	}
	return done(w, client.Touch{}.Do(r.Context(), s.verbs, c))
}

// ack says that a connection's client has handled what it was sent, up to a cursor.
func (s *subscriber) ack(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.ownBy(s.hub.cluster.FindLately, r, who)
	if err != nil {
		return err
	}
	return s.say(w, r, who, c, &client.Ack{})
}

// token has a stream live as long as the token of this request.
func (s *subscriber) token(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if err != nil {
		return err
	}
	return done(w, s.verbs.Prolong(r.Context(), c, who))
}

func (s *subscriber) adjust(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if err != nil {
		return err
	}
	return s.say(w, r, who, c, &client.Filter{})
}

func (s *subscriber) typing(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	var faults problem.Faults
	tenant, profile, err := who.Client(r, faults.Query(r.URL.RawQuery))
	person := event.TenantProfile{Tenant: tenant, Profile: profile}
	if err = errors.Join(err, faults.Err()); err == nil {
		err = s.verbs.Allow(person)
	}
	if err != nil {
		return err
	}
	typing := client.Typing{Conversation: strings.Clone(r.PathValue("id"))}
	err = s.read(r, who, func(f *problem.Faults, name string, v strictjson.Value) {
		if name != "state" {
			f.Add(problem.CodeUnknownField, name, "is not a field here")
			return
		}
		typing.Field(f, name, v)
	})
	if err == nil {
		err = typing.DoFor(r.Context(), s.verbs, person)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// visiblePresence is what the caller may see of others, whom the query names or, of a
// POST, the body.
func (s *subscriber) visiblePresence(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	tenant, viewer, err := who.Viewer(r, query)
	asked := request.ProfilesOf(&faults, query)
	if err := errors.Join(err, faults.Err()); err != nil {
		return err
	}
	if err := s.verbs.Allow(event.TenantProfile{Tenant: tenant, Profile: viewer}); err != nil {
		return err
	}
	if r.Method == http.MethodPost {
		memory := s.hub.quotas.Body(who.Holder(r))
		defer memory.Close()
		if asked, err = request.Small.Profiles(r, memory); err != nil {
			return err
		}
	}
	if err := problem.OfQuestion(s.hub.tenants.EnsureAll(r.Context(), tenant)); err != nil {
		return err
	}
	answer := s.hub.quotas.Answer(who.Holder(r))
	defer answer.Close()
	turn := func(size int) (func(), error) { return request.ListTurn(r.Context(), tenant, size) }
	return presenceRows(w, answer, asked, turn, func(some []event.Profile) []presence.Person { return s.hub.presence.Visible(tenant, viewer, some) })
}
