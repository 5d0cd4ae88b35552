package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/contracttest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/doctor"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// brokenLog fails as it is told to.
type brokenLog struct {
	*history.Memory
	told atomic.Pointer[error] // by the test, while what it asked before may go on
}

func (l *brokenLog) err() error     { return *l.told.Load() }
func (l *brokenLog) fail(err error) { l.told.Store(&err) }

// newBrokenLog cannot store anything, to begin with.
func newBrokenLog() *brokenLog {
	l := &brokenLog{Memory: history.NewMemory(testLimits)}
	l.fail(history.ErrNotStored)
	return l
}

func (l *brokenLog) Append(context.Context, []*history.Entry) error { return l.err() }
func (l *brokenLog) Attach(context.Context, string) (history.Cursor, error) {
	return history.Cursor{}, l.err()
}
func (l *brokenLog) Find(context.Context, string, string, *history.Reader) (history.Cursor, error) {
	return history.Cursor{}, l.err()
}
func (l *brokenLog) Read(context.Context, string, history.Query) (page history.Page, _ error) {
	return page, l.err()
}

// brokenRooms fail as brokenLog does.
type brokenRooms struct{ *brokenLog }

func (brokenRooms) Follow(func(string, history.Epoch, event.Room, []room.Membership), func(string)) {}
func (brokenRooms) Sure(context.Context) error                                                      { return nil }
func (r brokenRooms) Attach(context.Context, string) error                                          { return r.err() }
func (r brokenRooms) Now(context.Context, string, event.Room) (room.State, error) {
	return room.State{}, r.err()
}
func (r brokenRooms) Change(context.Context, string, event.Room, room.State, []room.Membership, bool) error {
	return r.err()
}

// stage is the hubs that it takes to get every documented answer.
type stage struct {
	outer    bool // ask where browsers call, and administration is elsewhere
	t        *testing.T
	contract *contracttest.Contract

	open, secured, limited, suspect, external, owned, broken, draining *testHub
	log                                                                *brokenLog

	whole   *testing.T // the whole test
	crowded string     // a hub with an address that may have no more, once it is needed
}

func newStage(t *testing.T) *stage {
	c, err := hubtest.LoadContract() // its own, so that only what happens here was seen
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, whole: t, contract: c, log: newBrokenLog()}
	s.open = newTestHub(t)
	s.secured = newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	s.limited = newTrustedHub(t, openDoor(t), access.RatesConfig{PublishRate: 1, ClientRate: 1, AdminRate: 1})
	auth := newAuth(t, access.Config{Secret: testSecret, FailedRate: 0.01})
	s.suspect = newTrustedHub(t, auth, access.RatesConfig{})
	suspicious := httptest.NewRequest("GET", "/v1/presence", nil) // from where all requests come
	suspicious.Header.Set("Authorization", "Bearer "+badToken(t))
	_, err = auth.Admit(suspicious, access.ScopeSubscribe, false)
	refusal, _ := errors.AsType[*access.Refusal](err)
	is.New(t).Equal(refusal.Code, "InvalidCredential")
	s.external = newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Resolver = room.NewService(room.ServiceConfig{URL: "http://127.0.0.1:1"})
	})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"members":[]}`) }))
	t.Cleanup(service.Close)
	s.owned = newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Resolver = room.NewService(room.ServiceConfig{URL: service.URL})
	})
	s.broken = newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Log, c.Rooms = s.log, brokenRooms{s.log} })
	s.draining = newTestHub(t)
	s.draining.streams.Drain(t.Context(), 0)
	return s
}

// send makes a call of the document's examples: to a hub, as somebody there.
func (s *stage) send(h *testHub, o *contracttest.Operation, kind string, set map[string]string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	s.t.Helper()
	all := map[string]string{}
	if o.Takes("X-Profile-Id") {
		all["tenant"], all["profile"] = "acme", "user:42"
	}
	if o.Takes("connectionId") && h != s.secured && h != s.broken && h != s.draining { // of somebody who is there
		c, err := h.streams.Connect(s.t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "42"}})
		if err != nil {
			s.t.Fatal(err)
		}
		defer h.streams.Kick(c, delivery.CloseKicked)
		all["connectionId"] = c.ID.String()
	}
	for name, value := range set {
		all[name] = value
	}
	method, target, body := o.Sample(kind, all)
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if o.ID == "openStream" || o.ID == "runDoctor" { // what is there at once
		ctx, cancel := context.WithCancel(s.t.Context())
		cancel()
		r = r.WithContext(ctx)
	}
	r.Host = "localhost"
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	handler := h.API.Handler()
	if s.outer {
		handler = h.API.PublicHandler()
	}
	s.contract.Handler(handler, func(err error) { s.t.Errorf("not in openapi.yaml: %v", err) }).ServeHTTP(w, r)
	return w
}

// provoke gets an answer of a status from an operation.
func (s *stage) provoke(o *contracttest.Operation, status string) {
	s.t.Helper()
	const asJSON = "application/json"
	kind := ""
	if slices.Contains(o.Bodies(), asJSON) {
		kind = asJSON
	}
	body := func(text string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		}
	}
	if strings.HasSuffix(o.ID, "SignalR") && o.ID != "negotiateSignalR" && (status[0] == '2' || status == "101") {
		s.signalR(o, status)
		return
	}
	if o.ID == "runDoctor" && slices.Contains([]string{"101", "204", "426"}, status) {
		s.probe(status)
		return
	}
	switch status {
	case "101":
		s.outside().OpenSocket(s.t, meQuery).Close()
	case "426":
		s.send(s.open, o, kind, nil, func(r *http.Request) { r.Header.Set("Upgrade", "websocket") })
	case "200", "202", "204":
		if err := s.open.members.AddMember(s.t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "general"}, event.Profile{Type: "user", ID: "42"}); err != nil {
			s.t.Fatal(err) // who types must be one
		}
		if o.ID == "acknowledge" {
			s.send(s.open, o, kind, nil, body(`{"cursor":"`+s.open.place(s.t, "acme")+`"}`))
			return
		}
		if o.ID == "pollEvents" && status == "204" {
			s.send(s.open, o, kind, map[string]string{"cursor": s.open.place(s.t, "acme"), "wait": "0s"})
			return
		}
		if o.Takes("event") {
			e := s.open.publish(s.t, "acme", "a.b", `{"kind":"tenant"}`, "1")
			s.send(s.open, o, kind, map[string]string{"event": e["id"].(string)})
			return
		}
		s.send(s.open, o, kind, nil)
		s.send(s.owned, o, kind, nil)
		for _, other := range o.Bodies() {
			s.send(s.open, o, other, nil)
		}
	case "304":
		tag := s.send(s.open, o, kind, nil).Header().Get("ETag")
		s.send(s.open, o, kind, nil, func(r *http.Request) { r.Header.Set("If-None-Match", tag) })
	case "400":
		s.send(s.open, o, kind, map[string]string{"tenant": "a b", "every": "often", "wait": "long"}, body(`{"nonsense":1}`), func(r *http.Request) {
			if o.ID == "openSocket" || o.ID == "openSignalR" {
				r.Body = http.NoBody
				r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}}
			}
		})
	case "401":
		s.send(s.secured, o, kind, nil)
	case "403":
		s.send(s.open, o, kind, nil, func(r *http.Request) { r.Host = "evil.example" })
		s.send(s.secured, o, kind, nil, func(r *http.Request) { r.Header.Set("Authorization", bearer(s.t, "scope", "")) })
	case "404":
		s.send(s.open, o, kind, map[string]string{"connectionId": "nobody", "name": "nothing"})
		if o.ID == "getProfile" {
			s.outer = true
			s.send(s.open, o, kind, nil)
			s.outer = false
		}
	case "409":
		s.send(s.external, o, kind, nil)
		s.send(s.open, o, kind, nil)
	case "413":
		s.send(s.open, o, kind, map[string]string{"id": s.negotiated()}, body(`{"nonsense":"`+strings.Repeat("x", 1<<20)+`"}`))
	case "415":
		s.send(s.open, o, kind, nil, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
	case "429":
		for n := 0; n < 20 && s.send(s.limited, o, kind, nil).Code != http.StatusTooManyRequests; n++ {
		}
		s.send(s.suspect, o, kind, nil, func(r *http.Request) { r.Header.Set("Authorization", bearer(s.t)) })
		if slices.Contains(o.Statuses(), "304") {
			s.crowd(o)
		}
	case "503":
		s.send(s.broken, o, kind, nil)
		s.send(s.draining, o, kind, nil)
		s.send(s.external, o, kind, nil)
		s.send(s.secured, o, kind, nil, func(r *http.Request) {
			r.Header.Set("Authorization", bearer(s.t, "nbf", time.Now().Add(time.Minute).Unix()))
		})
	default:
		s.t.Errorf("%s: nobody knows how to get a %s", o.Name, status)
	}
}

// signalR gets what an operation answers a session that is there.
func (s *stage) signalR(o *contracttest.Operation, status string) {
	s.t.Helper()
	at := map[string]string{"id": s.negotiated()}
	stream := func(r *http.Request) {
		ctx, cancel := context.WithCancel(s.t.Context())
		cancel()
		*r = *r.WithContext(ctx) // what is there at once
		r.Header.Set("Accept", "text/event-stream")
	}
	poll := s.of("openSignalR")
	switch {
	case status == "101":
		dialSignalR(s.t, s.outside().URL, meQuery, "").accepted(s.t)
	case o.ID != poll.ID:
		s.send(s.open, poll, "", at)
		s.send(s.open, o, "text/plain", at)
	case status == "200":
		s.send(s.open, poll, "", at)
		s.send(s.open, poll, "", map[string]string{"id": s.negotiated()}, stream)
	default:
		s.send(s.open, poll, "", at)
		for _, c := range s.open.streams.Connections("acme", nil) {
			s.open.streams.Kick(c, delivery.CloseKicked)
		}
		eventually(s.t, func() bool { return s.send(s.open, poll, "", at).Code == http.StatusNoContent }) // once it has had all
	}
}

// probe gets an answer of the doctor's at another door.
func (s *stage) probe(status string) {
	s.t.Helper()
	is := is.New(s.t)
	hub := s.outside()
	path := map[string]string{"101": "/v1/socket", "426": "/v1/socket", "204": "/v1/poll"}[status]
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, hub.URL+path+"?doctor=true&for=1ms", nil)
	is.NoErr(err)
	if status == "101" {
		req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	}
	res, err := hub.Client.Do(req)
	is.NoErr(err)
	res.Body.Close()
	is.Equal(strconv.Itoa(res.StatusCode), status)
}

// outside is the open hub with a server of its own.
func (s *stage) outside() *hubtest.Hub {
	s.t.Helper()
	server := httptest.NewServer(s.contract.Handler(s.open.API.Handler(), func(err error) { s.t.Errorf("not in openapi.yaml: %v", err) }))
	s.t.Cleanup(server.Close)
	return &hubtest.Hub{URL: server.URL, Client: server.Client()}
}

// negotiated is a new session's connectionToken.
func (s *stage) negotiated() string {
	s.t.Helper()
	var told struct{ ConnectionToken string }
	is.New(s.t).NoErr(json.Unmarshal(s.send(s.open, s.of("negotiateSignalR"), "", nil).Body.Bytes(), &told))
	return told.ConnectionToken
}

// of is the operation of an id.
func (s *stage) of(id string) *contracttest.Operation {
	for _, o := range s.contract.Operations() {
		if o.ID == id {
			return o
		}
	}
	s.t.Fatal("no operation ", id)
	return nil
}

// A documented answer that nobody has ever seen would be a guess.
func TestContractIsWhatHappens(t *testing.T) {
	alone(t, "its requests end before they begin")
	s := newStage(t)
	served := s.open.API.serves()
	for _, o := range s.contract.Operations() {
		if !served(o) {
			continue // TestContractRoutes tells
		}
		t.Run(o.Name, func(t *testing.T) {
			s.t = t
			for _, status := range o.Statuses() {
				s.provoke(o, status)
			}
		})
	}
	s.t = t
	s.provokeElsewhere()
	s.provokeEvents()
	for _, what := range s.contract.Documented() {
		if !s.contract.Seen(what) {
			t.Errorf("documented, and never seen: %s", what)
		}
	}
}

// provokeElsewhere gets what any path may answer, and each way to fail to store.
func (s *stage) provokeElsewhere() {
	health := s.of("getHealth")
	to := func(method, path, host string) func(*http.Request) {
		return func(r *http.Request) { r.Method, r.URL.Path, r.Host = method, path, host }
	}
	s.send(s.open, health, "", nil, to("GET", "/nowhere", "localhost"))
	s.send(s.open, health, "", nil, to("GET", "/nowhere", "evil.example"))
	s.send(s.open, health, "", nil, to("DELETE", "/v1/events", "localhost"))
	defer s.log.fail(history.ErrNotStored)
	for _, err := range []error{history.ErrUnconfirmed, history.ErrTooLarge, errors.New("a fault of the hub's own")} {
		s.log.fail(err)
		for _, id := range []string{"publishEvent", "publishBatch"} {
			s.send(s.broken, s.of(id), "application/json", nil)
		}
		s.send(s.broken, s.of("publishEvent"), "application/x-ndjson", nil)
	}
	s.log.fail(history.ErrUnconfirmed) // of a question nothing may have been stored
	for id, kind := range map[string]string{"getPresence": "", "queryPresence": "application/json", "queryTenantPresence": "application/json"} {
		if w := s.send(s.broken, s.of(id), kind, nil); !strings.Contains(w.Body.String(), `"code":"BrokerUnavailable"`) {
			s.t.Errorf("%s from a broker that is away: %d %s", id, w.Code, w.Body)
		}
	}
	s.send(s.open, s.of("publishEvent"), "application/x-ndjson", map[string]string{"results": "all"})
	if w := s.send(s.open, s.of("publishEvent"), "application/x-ndjson", map[string]string{"results": "al"}); w.Code != http.StatusBadRequest {
		s.t.Errorf("results=al: %d", w.Code)
	}
}

// digest connects people until a client is told of several at once: three together, of whom a slow
// machine may tell one by one.
func (s *stage) digest(h *testHub, w *testClient) {
	s.t.Helper()
	for round := range 20 {
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				h.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: fmt.Sprint(round, "-", i)}})
			})
		}
		all.Wait()
		for range 3 {
			if w.next(s.t).Type == "presence.digest" {
				return
			}
		}
	}
	s.t.Error("no presence.digest")
}

// provokeEvents gets every message of the AsyncAPI document.
func (s *stage) provokeEvents() {
	t := s.t
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{}, func(_ *HubConfig, p *PresenceConfig) {
		p.Audience, p.Burst, p.IdleTimeout, p.Grace = settings.AudienceTenant, 0, 100*time.Millisecond, 10*time.Millisecond
	})
	h.contract = s.contract
	as := func(sub string, lasts time.Duration) string {
		return strings.TrimPrefix(bearer(t, "sub", sub, "exp", time.Now().Add(lasts).Unix()), "Bearer ")
	}
	w := h.open(t, "access_token="+as("w", time.Hour))
	a := h.open(t, "access_token="+as("a", time.Hour))
	w.until(t, "presence.online")
	w.until(t, "presence.away")
	a.close()
	w.until(t, "presence.offline")
	is.NoErr(untilConfirmed(func() error {
		return h.members.SetMembers(t.Context(), "acme", talk, []event.Profile{{Type: "user", ID: "w"}, {Type: "user", ID: "a"}})
	}))
	for _, state := range []string{"started", "stopped"} {
		is.NoErr(h.Cluster.Typing(t.Context(), "acme", event.Profile{Type: "user", ID: "a"}, talk.ID, state == "started"))
		w.until(t, "typing."+state)
	}
	for _, ev := range []string{
		eventJSON("acme", "a.stored", `{"kind":"conversation","conversationId":"talk"}`, "1"),
		eventJSON("acme", "a.single", `{"kind":"connection","connectionId":"`+w.ConnectionID+`"}`, "1"),
	} {
		e, err := DecodeEvent([]byte(ev), nil, 0)
		is.NoErr(err)
		_, err = h.Publish(t.Context(), []*event.Event{e})
		is.NoErr(err)
		w.until(t, e.Type)
	}
	h.open(t, "cursor=elsewhere-1&access_token="+as("w", time.Hour)).until(t, "hub.gap")
	h.open(t, "access_token="+as("w", 25*time.Second)).until(t, "hub.expiring")
	h.streams.Drain(t.Context(), 0)
	w.until(t, "hub.closing")

	h = newTestHub(t, func(_ *HubConfig, p *PresenceConfig) {
		p.Audience, p.Burst, p.Tick = settings.AudienceTenant, 1, 100*time.Millisecond
	})
	h.contract = s.contract
	w = h.open(t, "tenant=acme&profile=w")
	s.digest(h, w)

	res, err := h.client.Get(h.URL + "/v1/doctor?every=50ms&for=1m")
	is.NoErr(err)
	defer res.Body.Close()
	probe := newStreamReader(t, res.Body)
	probe.Contract = s.contract
	hello, err := probe.Next()
	is.NoErr(err)
	other, err := h.client.Get(h.URL + "/v1/doctor?every=0&for=1m&tell=" + probeIn(t, hello).ID)
	is.NoErr(err)
	other.Body.Close()
	for event := hello; event.Type != doctor.EventGone; {
		event, err = probe.Next()
		is.NoErr(err)
	}
	res, err = h.client.Get(h.URL + "/v1/doctor?every=50ms&for=200ms")
	is.NoErr(err)
	defer res.Body.Close()
	probe = newStreamReader(t, res.Body)
	probe.Contract = s.contract
	for err == nil {
		_, err = probe.Next()
	}
	is.Equal(err, io.EOF)
}
