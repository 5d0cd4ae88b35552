package main

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
	"realtimehub/internal/sse"
	"realtimehub/internal/strictjson"
)

// subscriber does what a person's client may: it opens a stream, adjusts it, tells of
// typing and asks who is there.
type subscriber struct {
	// Static.
	hub      *Hub
	cluster  *cluster.Cluster
	presence *Presence
	limits   *access.Rates
	quotas   *allowance.Pools
	doors    *door.Opener
}

func (s *subscriber) stream(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	query := r.URL.Query()
	sub, err := door.Read(r, query, who)
	var faults problem.Faults
	sub.Encoding = sse.Encoding{Unnamed: !door.Flag(&faults, query, "named", true)}
	if err := errors.Join(err, faults.Err()); err != nil {
		return err
	}
	sub.Cursor = cursorOf(r.Header, query)
	sse.Header(w.Header())
	if r.Method == http.MethodHead {
		return nil
	}
	streams := s.hub.streams
	_, stream, over, err := s.doors.Open(r, sub, !streams.Engine().Takes(r))
	if err != nil {
		s.turnAway(w, r, delivery.Turned(err), streams.Away(sub.Tenant, err))
		return nil
	}
	defer over()
	defer lobby.Away(r)() // it is counted as a stream
	streams.Engine().Serve(w, r, stream)
	return nil
}

// cursorOf is where a client resumes. A polyfill of EventSource that sends no header of
// its own appends the id to the address it was given, which may say cursor already: so
// it wins over that, and of several the last one is the latest.
func cursorOf(header http.Header, query url.Values) string {
	if id := header.Get("Last-Event-ID"); id != "" {
		return id
	}
	for _, name := range []string{"lastEventId", "lastEventID", "last_event_id", "Last-Event-ID"} {
		for _, id := range slices.Backward(query[name]) {
			if id != "" {
				return id
			}
		}
	}
	return query.Get("cursor")
}

// later has a client come back whose token may be good then.
func (s *subscriber) later(w http.ResponseWriter, r *http.Request, after time.Duration) {
	s.hub.count.Refused(delivery.ClosePending)
	s.turnAway(w, r, delivery.ClosePending, after)
}

// turnAway answers with a stream of hub.closing alone, for a client to come back after
// some time: stock EventSource gives up for good on any other answer than 200.
func (s *subscriber) turnAway(w http.ResponseWriter, r *http.Request, why delivery.CloseReason, after time.Duration) {
	sse.Header(w.Header())
	if r.Method == http.MethodHead {
		return
	}
	words := s.hub.streams.Encoder(sse.Encoding{})
	last := words.NewStream(func(error) {})
	last.Close(words.Closing(why, after))
	s.hub.streams.Engine().Serve(w, r, last)
}

// own finds the connection of a client's call, which counts as one of its profile; in
// open mode, where only the connection says whose it is, and it is not this hub's, as
// one of the client's address. It counts before another hub is asked.
func (s *subscriber) own(r *http.Request, who *access.Caller) (*delivery.Connection, error) {
	id := r.PathValue("id")
	c := s.hub.streams.Connection(id)
	holder := who.Holder(r)
	if c != nil && !who.Proven() {
		holder = event.TenantProfile{Tenant: c.Tenant, Profile: c.Profile}
	}
	if err := s.limits.Client(holder); err != nil {
		return nil, err
	}
	if c == nil {
		var err error
		if c, err = s.cluster.Find(r.Context(), id); err != nil {
			return nil, err
		}
	}
	if c == nil || !who.Is(c.Tenant, c.Profile) {
		return nil, errNoConnection
	}
	return c, nil
}

func (s *subscriber) touch(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if err != nil {
		return err
	}
	return done(w)(s.cluster.Touch(r.Context(), c))
}

// ack says that a connection's client has handled what it was sent, up to a cursor.
func (s *subscriber) ack(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if lately := s.hub.streams.Lately(r.PathValue("id")); err == errNoConnection && lately != nil && who.Is(lately.Tenant, lately.Profile) {
		c, err = lately, nil
	}
	if err != nil {
		return err
	}
	memory := s.quotas.Body(who.Holder(r))
	defer memory.Close()
	cursor := ""
	err = request.Small.Object(r, memory, func(f *problem.Faults, name string, v strictjson.Value) {
		if name != "cursor" {
			f.Add(problem.CodeUnknownField, name, `the body has "cursor" only`)
			return
		}
		cursor = f.Text(problem.CodeInvalidField, name, v)
	})
	if err == nil && cursor == "" {
		err = &problem.FieldError{Code: problem.CodeInvalidField, Field: "cursor", Index: -1, Detail: "is needed: the id of the last event that was handled"}
	}
	if err != nil {
		return err
	}
	return done(w)(s.cluster.Acknowledge(r.Context(), c, cursor))
}

// token has a stream live as long as the token of this request; in open mode
// there is nothing to prolong.
func (s *subscriber) token(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if err != nil {
		return err
	}
	return done(w)(s.cluster.Prolong(r.Context(), c, who.Expires()))
}

func (s *subscriber) adjust(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := s.own(r, who)
	if err != nil {
		return err
	}
	memory := s.quotas.Body(who.Holder(r))
	defer memory.Close()
	var types **event.Filter
	var watch *[]event.Profile
	if err := request.Small.Object(r, memory, func(f *problem.Faults, name string, v strictjson.Value) {
		switch {
		case name != "types" && name != "presence":
			f.Add(problem.CodeUnknownField, name, "is not a field here")
		case problem.Absent(v):
		case name == "types":
			if f.TooMany(problem.CodeInvalidField, name, v, event.MaxAskedProfiles, "types") {
				return
			}
			if list := f.Texts(problem.CodeInvalidField, name, v); !f.Within(name) {
				filter := f.Types(name, list)
				types = &filter
			}
		default:
			profiles := door.WatchValue(f, name, v)
			watch = &profiles
		}
	}); err != nil {
		return err
	}
	return done(w)(s.cluster.Adjust(r.Context(), c, types, watch))
}

func (s *subscriber) typing(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, profile, err := who.Client(r, r.URL.Query())
	if err == nil {
		err = s.limits.Client(event.TenantProfile{Tenant: tenant, Profile: profile})
	}
	if err != nil {
		return err
	}
	memory := s.quotas.Body(who.Holder(r))
	defer memory.Close()
	conversation := strings.Clone(r.PathValue("id"))
	state := ""
	err = request.Small.Object(r, memory, func(f *problem.Faults, name string, v strictjson.Value) {
		if name != "state" {
			f.Add(problem.CodeUnknownField, name, "is not a field here")
			return
		}
		state = f.Text(problem.CodeInvalidField, name, v)
	})
	if err == nil && state != "started" && state != "stopped" {
		err = &problem.FieldError{Code: problem.CodeInvalidField, Field: "state", Index: -1, Detail: "must be started or stopped"}
	}
	if bad := event.CheckName(conversation); bad != nil {
		err = errors.Join(err, &problem.FieldError{Code: problem.CodeInvalidField, Field: "conversationId", Index: -1, Detail: bad.Error()})
	}
	if err != nil {
		return err
	}
	if err := s.cluster.Typing(r.Context(), tenant, profile, conversation, state == "started"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// visiblePresence is what the caller may see of others, whom the query names or, of a
// POST, the body.
func (s *subscriber) visiblePresence(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	query := r.URL.Query()
	tenant, viewer, err := who.Viewer(r, query)
	var faults problem.Faults
	asked := request.ProfilesOf(&faults, query)
	if err := errors.Join(err, faults.Err()); err != nil {
		return err
	}
	if err := s.limits.Client(event.TenantProfile{Tenant: tenant, Profile: viewer}); err != nil {
		return err
	}
	if r.Method == http.MethodPost {
		memory := s.quotas.Body(who.Holder(r))
		defer memory.Close()
		if asked, err = request.Small.Profiles(r, memory); err != nil {
			return err
		}
	}
	if err := problem.OfQuestion(s.hub.tenants.EnsureAll(r.Context(), tenant)); err != nil {
		return err
	}
	answer := s.quotas.Answer(who.Holder(r))
	defer answer.Close()
	turn := func(size int) (func(), error) { return request.ListTurn(r.Context(), tenant, size) }
	return presenceRows(w, answer, asked, turn, func(some []event.Profile) []PresenceOf { return s.presence.Visible(tenant, viewer, some) })
}
