package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// ruled is a hub in a bubble whose membership a service owns, behind a transport.
func ruled(t *testing.T, service http.RoundTripper) (*Hub, http.Handler) {
	logger := slog.New(slog.DiscardHandler)
	members := room.NewService(room.ServiceConfig{URL: "http://members.example/m/", Token: "s3cret", Transport: service})
	hub := NewHub(HubConfig{
		Retry: time.Second, StreamBuffer: 1 << 20, Log: history.NewMemory(testLimits), Resolver: members, Plain: true, Logger: logger,
	}, PresenceConfig{Audience: settings.AudienceNone, Grace: time.Second}, nil, Reporting{})
	api := NewAPI(hub, openDoor(t), access.NewRates(access.RatesConfig{}), APIConfig{Logger: logger})
	return hub, checked(t, api.Handler())
}

// call is ask of somebody who waits for the answer.
func call(handler http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func toRoom(i int) string {
	return eventJSON("acme", "a.b", fmt.Sprintf(`{"kind":"conversation","conversationId":"r%d"}`, i), fmt.Sprint(i))
}

// However many rooms somebody missed something in, a service that hangs is waited for
// once, after hub.ready has been said; the last good answers serve.
func TestResumeWhileTheMembershipServiceHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &roomtest.Service{Members: `"me"`}
		hub, handler := ruled(t, service)
		c, err := hub.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}})
		is.NoErr(err)
		_, cursor, _ := strings.Cut(call(handler, "POST", "/v1/events", toRoom(0)).Body.String(), `"cursor":"`)
		cursor, _, _ = strings.Cut(cursor, `"`)
		const rooms = 12
		for i := range rooms {
			is.Equal(call(handler, "POST", "/v1/events", toRoom(i+1)).Code, http.StatusAccepted)
		}
		hub.streams.Kick(c, delivery.CloseKicked)
		time.Sleep(time.Minute) // no answer holds any more
		service.Forget()
		service.Set(func() { service.Gate = make(chan struct{}) })

		start := time.Now()
		pr, pw := io.Pipe()
		var done sync.WaitGroup
		done.Go(func() {
			again, err := hub.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}, Cursor: cursor})
			if err != nil {
				t.Error(err)
				return
			}
			r := httptest.NewRequest("GET", "/v1/stream", nil)
			hub.streams.Engine().Serve(&pipeWriter{header: http.Header{}, w: pw}, r, again.Stream)
			pw.Close()
		})
		reader := newStreamReader(t, pr)
		next := func() sse.Event {
			event, err := reader.Next()
			is.NoErr(err)
			return event
		}
		is.Equal(next().Type, "hub.ready")
		is.Equal(time.Since(start), 0*time.Second) // before anybody is waited for
		for i := range rooms {
			is.Equal(string(openEnvelope(t, next()).Payload), fmt.Sprint(i+1))
		}
		is.Equal(time.Since(start), 2*time.Second) // one question's time
		is.Equal(service.Questions(), rooms)
		is.Equal(service.MostAtOnce(), rooms) // together
		go io.Copy(io.Discard, pr)
		hub.streams.Drain(t.Context(), 0)
		done.Wait()
		is.NoErr(hub.streams.Engine().Close(t.Context()))
	})
}

// A batch for many rooms asks for them together as well.
func TestBatchWhileTheMembershipServiceHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &roomtest.Service{Members: `"me"`}
		hub, handler := ruled(t, service)
		var events []string
		for i := range 40 {
			events = append(events, toRoom(i))
		}
		batch := `{"events":[` + strings.Join(events, ",") + `]}`
		is.Equal(call(handler, "POST", "/v1/events/batch", batch).Code, http.StatusAccepted)
		time.Sleep(time.Minute) // no answer holds any more
		service.Set(func() { service.Gate = make(chan struct{}) })
		start := time.Now()
		is.Equal(call(handler, "POST", "/v1/events/batch", batch).Code, http.StatusAccepted) // the last good answers serve
		is.Equal(time.Since(start), 2*time.Second)
		is.Equal(service.MostAtOnce(), 32) // as many as one call asks for at a time
		w := call(handler, "POST", "/v1/events", toRoom(100))
		is.Equal(w.Code, http.StatusServiceUnavailable) // never resolved
		is.True(strings.Contains(w.Body.String(), "MembershipUnavailable"))
		is.NoErr(hub.streams.Engine().Close(t.Context()))
	})
}

// An answer holds as long as its Cache-Control says, within bounds; 30 s without one.
func TestMembershipAnswersHoldAsTheySay(t *testing.T) {
	for _, c := range []struct {
		name  string
		cache []string
		holds time.Duration
	}{
		{"nothing", nil, 30 * time.Second},
		{"of no concern", []string{"private, must-revalidate"}, 30 * time.Second},
		{"shorter", []string{"max-age=5"}, 5 * time.Second},
		{"longer", []string{`Private, Max-Age="600"`}, 10 * time.Minute},
		{"an hour at most", []string{"max-age=86400"}, time.Hour},
		{"more than fits", []string{"max-age=99999999999999999999"}, time.Hour},
		{"the shortest", []string{"max-age=60", "max-age=7"}, 7 * time.Second},
		{"none", []string{"max-age=0"}, 0},
		{"no-cache", []string{"max-age=60, no-cache"}, 0},
		{"no-store", []string{"no-store"}, 0},
		{"nonsense", []string{"max-age=soon"}, 0},
		{"negative", []string{"max-age=-1"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				service := &roomtest.Service{Members: `"me"`, Cache: c.cache}
				hub, handler := ruled(t, service)
				publish := func() { is.Equal(call(handler, "POST", "/v1/events", toRoom(1)).Code, http.StatusAccepted) }
				publish()
				is.Equal(service.Questions(), 1)
				if c.holds > 0 {
					time.Sleep(c.holds - time.Nanosecond)
					publish()
					is.Equal(service.Questions(), 1) // kept
				}
				time.Sleep(time.Nanosecond)
				publish()
				is.Equal(service.Questions(), 2) // and not longer
				is.NoErr(hub.streams.Engine().Close(t.Context()))
			})
		})
	}
}

// Where nothing may be kept, those who wait together share a question, and nobody is
// answered with one that was asked before they came.
func TestMembershipQuestionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		gate := make(chan struct{})
		service := &roomtest.Service{Members: `"me"`, Cache: []string{"no-store"}, Gate: gate}
		hub, handler := ruled(t, service)
		var all sync.WaitGroup
		publish := func() {
			if w := call(handler, "POST", "/v1/events", toRoom(1)); w.Code != http.StatusAccepted || !strings.Contains(w.Body.String(), `"members":2`) {
				t.Error(w.Code, w.Body)
			}
		}
		go call(handler, "POST", "/v1/events", toRoom(1))
		synctest.Wait()
		is.Equal(service.Questions(), 1)
		service.Set(func() { service.Members = `"me","you"` }) // after the first has been asked
		for range 20 {
			all.Go(publish)
		}
		synctest.Wait()
		is.Equal(service.Questions(), 1) // one at a time
		service.Set(func() { service.Gate = nil })
		close(gate)
		all.Wait()
		is.Equal(service.Questions(), 2) // another one for all who came later
		is.NoErr(hub.streams.Engine().Close(t.Context()))
	})
}

const refreshRoom = "/v1/tenants/acme/conversations/r/members/refresh"

// A refresh asks the service at once; who was removed gets nothing that is published
// after it was answered.
func TestMembersRefresh(t *testing.T) {
	alone(t, "TestClusterMembersRefresh is the same for several hubs")
	is := is.New(t)
	service := &roomtest.Service{Members: `"me"`}
	server := httptest.NewServer(service)
	defer server.Close()
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
	})
	me, you := h.open(t, meQuery), h.open(t, "tenant=acme&profile=you")
	say := func(what string) float64 {
		t.Helper()
		return h.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, what)["connections"].(float64)
	}
	is.Equal(say("1"), 1.0)
	service.Set(func() { service.Members = `"you"` })
	asked := service.Questions()
	is.Equal(asked, 1)
	is.Equal(say("2"), 1.0) // the old answer holds
	is.Equal(service.Questions(), asked)
	eventually(t, func() bool { // a service that is slow is asked again
		asked = service.Questions()
		status, _ := h.post(t, refreshRoom, "")
		return status == http.StatusNoContent && service.Questions() == asked+1
	})
	is.Equal(say("3"), 1.0)
	is.Equal(service.Questions(), asked+1) // and the new one now
	is.Equal(h.payloads(t, "acme", me, you), []string{"1 2", "3"})

	server.Close()
	status, answer := h.post(t, refreshRoom, "")
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "MembershipUnavailable")
	is.Equal(say("4"), 1.0) // what was known holds
	is.Equal(h.payloads(t, "acme", me, you), []string{"", "4"})

	own := newTestHub(t)
	status, answer = own.post(t, refreshRoom, "")
	is.Equal(status, http.StatusConflict)
	is.Equal(answer["code"], "MembershipNotExternal")
}

// A refresh is never answered with a question that was asked before it; those that come
// meanwhile share the next one.
func TestMembersRefreshIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		gate := make(chan struct{})
		service := &roomtest.Service{Members: `"me"`, Gate: gate}
		hub, handler := ruled(t, service)
		go call(handler, "POST", "/v1/events", toRoom(1))
		synctest.Wait()
		service.Set(func() { service.Members = `"you"` })
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if w := call(handler, "POST", strings.Replace(refreshRoom, "/r/", "/r1/", 1), ""); w.Code != http.StatusNoContent {
					t.Error(w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		is.Equal(service.Questions(), 1) // one at a time
		service.Set(func() { service.Gate = nil })
		close(gate)
		all.Wait()
		is.Equal(service.Questions(), 2)
		list, err := hub.members.Members(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "r1"}, anyLength)
		is.NoErr(err)
		is.Equal(list, []event.Profile{{Type: "user", ID: "you"}})
		is.NoErr(hub.streams.Engine().Close(t.Context()))
	})
}

// A refresh through one hub holds on all of them when it is answered; where one does
// not say so, it is not told as done.
func TestClusterMembersRefresh(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	service := &roomtest.Service{Members: `"me"`}
	server := httptest.NewServer(service)
	defer server.Close()
	_, nodes := threeHubs(t, func(hub *HubConfig, _ *PresenceConfig) {
		hub.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
	})
	var clients []*testClient
	for _, node := range nodes {
		clients = append(clients, node.open(t, meQuery), node.open(t, "tenant=acme&profile=you"))
	}
	say := func(what int) {
		t.Helper()
		nodes[what%3].publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(what))
	}
	for round := range 10 { // each time all three change their minds
		members, who, other := `"me"`, 0, 1
		if round%2 == 1 {
			members, who, other = `"you"`, 1, 0
		}
		service.Set(func() { service.Members = members })
		nodes[round%3].changes(t, "POST", refreshRoom, "")
		say(round)
		for i := range nodes {
			is.Equal(nodes[i].replayed(t, clients[2*i+other]), "") // not for the removed
			is.Equal(string(openEnvelope(t, clients[2*i+who].next(t)).Payload), fmt.Sprint(round))
		}
	}
	server.Close()
	status, answer := nodes[1].post(t, refreshRoom, "")
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "MembershipUnavailable")
}

// Where nobody has ever said who belongs to a room that something was said in, a client
// that comes back is told that it may miss it.
func TestClusterRoomsThatNobodyKnows(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	var broken atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(w, `{"members":["me"]}`)
	}))
	defer server.Close()
	all := newCluster(t, 2, natstest.Start(t, 1), openDoor(t), access.RatesConfig{}, func(hub *HubConfig, _ *PresenceConfig) {
		hub.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
	})
	one, two := all.nodes[0], all.nodes[1]
	c := one.open(t, meQuery)
	c.close()
	one.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, "1")
	one.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2")
	broken.Store(true)
	back := two.back(t, c.Cursor, meQuery) // which has never been told of the room
	is.Equal(string(openEnvelope(t, back.next(t)).Payload), "2")
	gap := back.next(t)
	is.Equal(gap.Type, "hub.gap")
	is.True(strings.Contains(gap.Data, `"reason":"membership"`))
	is.Equal(one.replayed(t, one.back(t, c.Cursor, meQuery)), "1 2") // here the last answer serves
}

// A receipt says how many members a room has: 0 is a message to nobody.
func TestReceiptsSayMembers(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	h.open(t, meQuery)
	const room = `{"kind":"group","groupId":"g"}`
	told := func(connections, members float64) { // in the end: what a hub does not know within a moment is unknown
		t.Helper()
		eventually(t, func() bool {
			answer := h.publish(t, "acme", "a.b", room, "1")
			return answer["connections"] == connections && answer["members"] == members
		})
	}
	told(0, 0) // as after a restart in memory
	for _, target := range []string{`{"kind":"tenant"}`, `{"kind":"profile","profiles":["me"]}`} {
		_, there := h.publish(t, "acme", "a.b", target, "1")["members"]
		is.True(!there) // of no room
	}
	status, _ := h.do(t, "PUT", "/v1/tenants/acme/groups/g/members", `{"members":["me","you","them"]}`)
	is.Equal(status, http.StatusNoContent)
	for range len(h.nodes) { // through each hub
		told(1, 3)
	}
	_, answer := h.post(t, "/v1/tenants/acme/groups/g/events", `{"type":"a.b","payload":1,"ephemeral":true}`)
	is.Equal(answer["members"], 3.0)
	_, answer = h.post(t, "/v1/tenants/acme/groups/nobody/events", `{"type":"a.b","payload":1,"ephemeral":true}`)
	is.Equal(answer["members"], 0.0)

	event := func(id, target string) string {
		return fmt.Sprintf(`{"id":%q,"tenantId":"acme","type":"a.b","payload":1,"target":%s}`, id, target)
	}
	to := func(id string) string { return `{"kind":"conversation","conversationId":"` + id + `"}` }
	_, answer = h.post(t, "/v1/events/batch", `{"events":[`+event("a", room)+`,`+event("b", to("x"))+`,`+event("a", room)+`,`+event("c", `{"kind":"tenant"}`)+`]}`)
	var members []any
	for _, r := range answer["results"].([]any) {
		members = append(members, r.(map[string]any)["members"])
	}
	is.Equal(members, []any{3.0, 0.0, nil, nil}) // the third is a duplicate

	lines := func(query, body string) (answers []map[string]any) {
		t.Helper()
		res, err := h.client.Post(h.URL+"/v1/events"+query, "application/x-ndjson", strings.NewReader(body))
		is.NoErr(err)
		defer res.Body.Close()
		for decoder := json.NewDecoder(res.Body); decoder.More(); {
			var answer map[string]any
			is.NoErr(decoder.Decode(&answer))
			answers = append(answers, answer)
		}
		return answers
	}
	answers := lines("?results=all", strings.Join([]string{event("d", room), event("e", to("x")), event("f", to("y")), event("b", to("x"))}, "\n"))
	is.Equal(answers[0]["members"], 3.0)
	is.Equal(answers[1]["members"], 0.0)
	is.Equal(answers[3]["members"], nil)
	is.Equal(answers[4]["withoutMembers"], 2.0)
	is.Equal(lines("", event("g", room))[0]["withoutMembers"], nil) // none
}

// Where another service owns membership, a receipt says how many it says.
func TestReceiptsSayMembersOfTheService(t *testing.T) {
	is := is.New(t)
	service := &roomtest.Service{Members: `"me","you","me"`}
	server := httptest.NewServer(service)
	defer server.Close()
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Resolver = room.NewService(room.ServiceConfig{URL: server.URL})
	})
	for range len(h.nodes) {
		is.Equal(h.publish(t, "acme", "a.b", `{"kind":"group","groupId":"g"}`, "1")["members"], 2.0)
	}
	_, there := h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")["members"]
	is.True(!there)
}

// A service may ask for presence of more than a URL holds, and so may a client.
func TestPresenceQuery(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t, func(_ *HubConfig, p *PresenceConfig) { p.Audience = settings.AudienceTenant })
	h.open(t, "tenant=acme&profile=online")
	var names, texts []string
	for i := range 199 {
		name := fmt.Sprintf("%03d", i) + strings.Repeat("ö", 126) + "x" // 256 bytes, and much more in a URL
		names = append(names, name)
		texts = append(texts, fmt.Sprintf("%q", "user:"+name))
	}
	body := `{"profiles":[{"id":"online"},` + strings.Join(texts, ",") + `]}`
	h.settle(t)
	for _, path := range []string{"/v1/presence/query?tenant=acme", "/v1/tenants/acme/presence/query"} {
		status, answer := h.post(t, path, body)
		is.Equal(status, http.StatusOK)
		list := answer["profiles"].([]any)
		is.Equal(len(list), 200)
		is.Equal(list[0].(map[string]any)["status"], "online")
		is.Equal(list[199].(map[string]any)["profile"], map[string]any{"type": "user", "id": names[198]}) // in the order asked
		for _, bad := range []string{`{}`, `{"profiles":null}`, `{"profiles":["user:"]}`, `{"profiles":[],"tenant":"acme"}`, `{"profiles":"me"}`,
			strings.Replace(body, "[", `["one-too-many",`, 1)} {
			status, answer = h.post(t, path, bad)
			is.Equal(status, http.StatusBadRequest)
			is.True(answer["errors"] != nil) // which names the field
		}
		status, answer = h.post(t, path, `{"profiles":[]}`)
		is.Equal(status, http.StatusOK)
		is.Equal(answer["profiles"], []any{})
	}

	// As GET does, it counts as a call, hides what the audience hides, and asks for a scope.
	h = newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{ClientRate: 2})
	post := func(path, token string) *httptest.ResponseRecorder {
		return call(h.Handler, "POST", path, `{"profiles":["1"]}`, "Authorization", token)
	}
	token := bearer(t, "scope", "subscribe")
	is.True(strings.Contains(post("/v1/presence/query", token).Body.String(), `"lastActiveAt":null`))
	is.Equal(post("/v1/presence/query", token).Code, http.StatusOK)
	is.Equal(post("/v1/presence/query", token).Code, http.StatusTooManyRequests)
	is.Equal(post("/v1/tenants/acme/presence/query", token).Code, http.StatusForbidden)
	is.Equal(post("/v1/tenants/globex/presence/query", bearer(t, "scope", "admin")).Code, http.StatusForbidden)
	is.Equal(post("/v1/tenants/acme/presence/query", bearer(t, "scope", "admin")).Code, http.StatusOK)
}

// A body that is compressed is refused by a word, on every call that takes one, and
// changes nothing.
func TestCompressedBodies(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, meQuery)
	for what, body := range map[string]string{
		"POST /v1/events application/json":                                        eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1"),
		"POST /v1/events application/x-ndjson":                                    eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1"),
		"POST /v1/events/batch application/json":                                  `{"events":[` + eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1") + `]}`,
		"POST /v1/tenants/acme/events application/json":                           `{"type":"a.b","payload":1}`,
		"PUT /v1/tenants/acme/groups/g/members application/json":                  `{"members":["me"]}`,
		"PATCH /v1/connections/" + c.ConnectionID + " application/json":           `{"types":["z"]}`,
		"POST /v1/presence/query?tenant=acme application/json":                    `{"profiles":["me"]}`,
		"POST /v1/conversations/g/typing?tenant=acme&profile=me application/json": `{"state":"started"}`,
	} {
		method, rest, _ := strings.Cut(what, " ")
		path, kind, _ := strings.Cut(rest, " ")
		for _, coding := range []string{"gzip", "br", "identity, gzip", "nonsense"} {
			req, err := http.NewRequestWithContext(t.Context(), method, h.URL+path, strings.NewReader(body))
			is.NoErr(err)
			req.Header.Set("Content-Type", kind)
			req.Header.Set("Content-Encoding", coding)
			res, err := h.client.Do(req)
			is.NoErr(err)
			var problem struct{ Code, Detail string }
			is.NoErr(json.NewDecoder(res.Body).Decode(&problem))
			res.Body.Close()
			is.Equal(res.StatusCode, http.StatusUnsupportedMediaType) // what
			is.Equal(problem.Code, "UnsupportedMediaType")
			is.True(strings.Contains(problem.Detail, "Content-Encoding"))
			is.Equal(res.Header.Get("Accept-Encoding"), "identity")
		}
	}
	is.Equal(h.payloads(t, "acme", c), []string{""}) // nothing was taken
	w := call(h.Handler, "POST", "/v1/events", eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1"), "Content-Encoding", "Identity")
	is.Equal(w.Code, http.StatusAccepted)
	w = call(h.Handler, "POST", "/v1/events", "{}", "Content-Type", "text/plain")
	is.Equal(w.Header().Get("Accept-Encoding"), "")
}
