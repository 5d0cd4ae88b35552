package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
	"realtimehub/internal/reserve"
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
}

func (s *subscriber) stream(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	query := r.URL.Query()
	sub, err := asked(r, query, who)
	if err != nil {
		return err
	}
	sub.Cursor = cursorOf(r.Header, query)
	sse.Header(w.Header())
	if r.Method == http.MethodHead {
		return nil
	}
	c, over, err := s.connect(r, sub)
	if err != nil {
		s.turnAway(w, r, delivery.Turned(err), s.hub.streams.Away(sub.Tenant, err))
		return nil
	}
	defer over()
	defer lobby.Away(r)() // it is counted as a stream
	sse.Header(w.Header())
	s.hub.streams.Engine().Serve(w, r, c.Stream)
	return nil
}

// asked is what a request asks of its stream.
func asked(r *http.Request, query url.Values, who *access.Caller) (delivery.Subscription, error) {
	tenant, profile, err := who.Client(r, query)
	sub, err2 := subscription(query)
	sub.Tenant, sub.Profile, sub.Expires = tenant, profile, who.Expires()
	return sub, errors.Join(err, err2)
}

// connect opens a stream for a request, whatever the door. over is called when the handler is
// done with it. Where there is no stream, the client is turned away for the error.
func (s *subscriber) connect(r *http.Request, sub delivery.Subscription) (c *delivery.Connection, over func(), err error) {
	request.AbortIfReset(r)
	if reserve.Holds(r.Context()) || reserve.Begun() {
		return nil, nil, s.hub.streams.TurnAway(sub.Tenant, access.ErrDescriptors)
	}
	if over, err = s.hold(r, event.TenantProfile{Tenant: sub.Tenant, Profile: sub.Profile}); err != nil {
		return nil, nil, s.hub.streams.TurnAway(sub.Tenant, err)
	}
	lobby.Leave(r) // it is paid for, however long it waits for its turn
	if c, err = s.hub.streams.Connect(r.Context(), sub); err == nil {
		return c, over, nil
	}
	over()
	if errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler) // nobody is left to be told
	}
	return nil, nil, err
}

// hold has a handler that stays with its stream counted for a person, until over is
// called: it stays longer than the connection is known, where the client does not read.
func (s *subscriber) hold(r *http.Request, who event.TenantProfile) (over func(), err error) {
	if s.hub.streams.Engine().Takes(r) {
		return func() {}, nil
	}
	n := handlerBytes + request.HeadBytes(r)
	if err := s.quotas.Keep(who, n, true); err != nil {
		return nil, err
	}
	return func() { s.quotas.Drop(who, n) }, nil
}

// handlerBytes is what a stream takes more whose handler stays with it, with net/http's
// part, as measured.
const handlerBytes = 20 << 10

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

func subscription(query url.Values) (s delivery.Subscription, err error) {
	var faults problem.Faults
	if types := query.Get("types"); types != "" {
		s.Types = faults.Types("types", strings.Split(types, ","))
	}
	switch query.Get("named") {
	case "", "true":
		s.Encoding = sse.Encoding{}
	case "false":
		s.Encoding = sse.Encoding{Unnamed: true}
	default:
		faults.Add(problem.CodeInvalidField, "named", "must be true or false")
	}
	switch query.Get("ack") {
	case "", "false":
	case "true":
		s.Acks = true
	default:
		faults.Add(problem.CodeInvalidField, "ack", "must be true or false")
	}
	if list := query["presence"]; len(list) > 0 && list[0] != "" {
		s.Watch = watchList(&faults, "presence", list)
	}
	for name, values := range query {
		key, ok := strings.CutPrefix(name, "meta.")
		if !ok || len(values) == 0 {
			continue
		}
		if key == "" || !event.ValidText(key) || !event.ValidText(values[0]) {
			faults.Add(problem.CodeInvalidField, name, "must be UTF-8 of up to 256 bytes, without control characters")
			continue
		}
		if s.Metadata == nil {
			s.Metadata = map[string]string{}
		}
		s.Metadata[strings.Clone(key)] = strings.Clone(values[0])
	}
	if len(s.Metadata) > 16 {
		faults.Add(problem.CodeInvalidField, "meta", "16 keys at most")
	}
	return s, faults.Err()
}

// watchList reads the profiles to watch; "none" alone is nobody, "*" as configured.
func watchList(f *problem.Faults, field string, list []string) []event.Profile {
	if len(list) == 1 && list[0] == "*" {
		return nil
	}
	watch := []event.Profile{}
	if len(list) == 1 && list[0] == "none" {
		return watch
	}
	if len(list) > event.MaxAskedProfiles {
		f.Add(problem.CodeInvalidField, field, "%d profiles at most", event.MaxAskedProfiles)
		return watch
	}
	for i, text := range list {
		p := f.Profile(field+"["+strconv.Itoa(i)+"]", strings.Clone(text))
		if !slices.Contains(watch, p) {
			watch = append(watch, p)
		}
	}
	return watch
}

// watchValue is watchList for JSON, which has profiles in either form.
func watchValue(f *problem.Faults, field string, v strictjson.Value) []event.Profile {
	if f.TooMany(problem.CodeInvalidField, field, v, event.MaxAskedProfiles, "profiles") {
		return nil
	}
	count, word := 0, ""
	v.Array(func(_ int, v strictjson.Value) {
		count++
		word, _ = v.String()
	})
	if count == 1 && (word == "none" || word == "*") {
		return watchList(f, field, []string{word})
	}
	return append([]event.Profile{}, f.Profiles(problem.CodeInvalidField, field, v)...)
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
			profiles := watchValue(f, name, v)
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

// visible is what a viewer may see of others, as a JSON array.
func (s *subscriber) visible(ctx context.Context, tenant string, viewer event.Profile, asked []event.Profile) ([]byte, error) {
	if err := problem.OfQuestion(s.hub.tenants.EnsureAll(ctx, tenant)); err != nil {
		return nil, err
	}
	return json.Marshal(s.presence.Visible(tenant, viewer, asked))
}
