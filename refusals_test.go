package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/plan"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// many is a list of n items.
func many(n int, item func(i int) string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(item(i))
	}
	return b.String()
}

func zero(int) string { return "0" }

// discarded is an answer that is only measured.
type discarded struct {
	header http.Header
	status int
	bytes  int
}

func (d *discarded) Header() http.Header { return d.header }
func (d *discarded) WriteHeader(n int)   { d.status = n }
func (d *discarded) Flush()              {}
func (d *discarded) Write(b []byte) (int, error) {
	d.bytes += len(b)
	return len(b), nil
}

// allocated is how many bytes a call allocates, and its answer.
func allocated(handler http.Handler, r *http.Request) (int, *discarded) {
	w := &discarded{header: http.Header{}, status: http.StatusOK}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	handler.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc), w
}

// However wrong a body is, refusing it takes a few times its size, and is answered with
// no more.
func TestARefusalCostsWhatABodyDoes(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{ClientRate: 1000})
	c := h.open(t, "tenant=acme&profile=user:1")
	handler := h.API.Handler()
	adjust, members := "PATCH /v1/connections/"+c.ConnectionID, "PUT /v1/tenants/acme/conversations/c/members"
	const half = 500_000
	event := func(target string) string {
		return `{"tenantId":"acme","type":"a.b","payload":1,"target":` + target + `}`
	}
	name := func(i int) string { return fmt.Sprintf(`"%x":0`, i) }
	lines := func(text string) string { return text + "\n" }
	for _, tc := range []struct {
		name, call, body string
		status           int
	}{
		{"types", adjust, `{"types":[` + many(half, zero) + `]}`, 413},
		{"types as many as fit", adjust, `{"types":[` + many(32_000, zero) + `]}`, 400},
		{"watch list", adjust, `{"presence":[` + many(32_000, zero) + `]}`, 400},
		{"fields", adjust, `{` + many(7_000, name) + `}`, 400},
		{"typing", "POST /v1/conversations/c/typing?tenant=acme&profile=user:1", `{` + many(7_000, name) + `}`, 400},
		{"asked", "POST /v1/presence/query?tenant=acme", `{"profiles":[` + many(32_000, zero) + `]}`, 400},
		{"asked by services", "POST /v1/tenants/acme/presence/query", `{"profiles":[` + many(32_000, zero) + `]}`, 400},
		{"members", members, `{"members":[` + many(half, zero) + `]}`, 400},
		{"members that have no id", members, `{"members":[` + many(half/3, func(int) string { return "{}" }) + `]}`, 400},
		{"members of many fields", members, `{"members":[{` + many(100_000, name) + `}]}`, 400},
		{"profiles", "POST /v1/events", event(`{"kind":"profiles","profiles":[` + many(half, zero) + `]}`), 400},
		{"profiles of a path", "POST /v1/tenants/acme/profiles/events", `{"type":"a.b","payload":1,"profiles":[` + many(half, zero) + `]}`, 400},
		{"excluded", "POST /v1/events", event(`{"kind":"tenant","exclude":{"connectionIds":[` + many(half, zero) + `]}}`), 400},
		{"excluded profiles", "POST /v1/events", event(`{"kind":"tenant","exclude":{"profiles":[` + many(half, zero) + `]}}`), 400},
		{"target's fields", "POST /v1/events", event(`{` + many(100_000, name) + `}`), 400},
		{"batch", "POST /v1/events/batch", `{"events":[` + many(half, zero) + `]}`, 400},
		{"batch of events", "POST /v1/events/batch", `{"events":[` + many(900, func(int) string { return `{"target":{"profiles":[` + many(500, zero) + `]}}` }) + `]}`, 400},
		{"a name", "POST /v1/events", `{"` + strings.Repeat("<", 1_000_000) + `":0}`, 400},
		{"a name twice", "POST /v1/events", `{"` + strings.Repeat("<", half) + `":0,"` + strings.Repeat("<", half) + `":0}`, 400},
		{"lines", "POST /v1/events", lines(event(`{"kind":"profiles","profiles":[` + many(half, zero) + `]}`)), 200},
		{"cut", "POST /v1/events", `{"payload":[` + many(half, zero), 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			is := is.New(t)
			method, target, _ := strings.Cut(tc.call, " ")
			for _, announced := range []bool{true, false} {
				r := httptest.NewRequest(method, target, strings.NewReader(tc.body))
				r.Host = "localhost"
				r.Header.Set("Content-Type", "application/json")
				if strings.HasSuffix(tc.body, "\n") {
					r.Header.Set("Content-Type", "application/x-ndjson")
				}
				if !announced {
					r.ContentLength = -1
				}
				n, w := allocated(handler, r)
				for range 2 { // others of this process allocate meanwhile: the least counts
					r.Body = io.NopCloser(strings.NewReader(tc.body))
					again, _ := allocated(handler, r)
					n = min(n, again)
				}
				t.Logf("%d bytes: %d allocated, %.1f times; answered %d", len(tc.body), n, float64(n)/float64(len(tc.body)), w.bytes)
				is.Equal(w.status, tc.status)
				is.True(n < 12*max(len(tc.body), 128<<10))
				is.True(w.bytes < 512<<10)
			}
			is.Equal(h.quotas.Bodies.Total()+h.quotas.Answers.Total(), int64(0)) // nothing is kept
		})
	}
}

// Calls that say little are not sent a megabyte.
func TestSmallCallsHaveSmallBodies(t *testing.T) {
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=user:1")
	h.changes(t, "PUT", "/v1/tenants/acme/conversations/c/members/user:1", "")
	for call, body := range map[string]string{
		"PATCH /v1/connections/" + c.ConnectionID:                    `{"types":["a.b"]}`,
		"POST /v1/conversations/c/typing?tenant=acme&profile=user:1": `{"state":"started"}`,
		"POST /v1/presence/query?tenant=acme":                        `{"profiles":["user:1"]}`,
		"POST /v1/tenants/acme/presence/query":                       `{"profiles":["user:1"]}`,
		"PUT /v1/tenants/acme/conversations/c/members":               `{"members":["user:1"]}`,
		"POST /v1/tenants/acme/profiles/user:1/events":               `{"type":"a.b","payload":1}`,
	} {
		t.Run(call, func(t *testing.T) {
			is := is.New(t)
			large := strings.Contains(call, "/members") || strings.Contains(call, "/events")
			method, path, _ := strings.Cut(call, " ")
			exactly := func(n int) string { return body + strings.Repeat(" ", n-len(body)) }
			status, _ := h.do(t, method, path, exactly(64<<10))
			is.True(status >= 200 && status < 300)
			status, answer := h.do(t, method, path, exactly(64<<10+1))
			if large {
				is.True(status >= 200 && status < 300)
				return
			}
			is.Equal(status, http.StatusRequestEntityTooLarge)
			is.Equal(answer["code"], "BodyTooLarge")
		})
	}
}

// unread fails the test that reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.ErrUnexpectedEOF
}

func (unread) Close() error { return nil }

// Who is past a rate is told so before anybody reads what else there is.
func TestARateIsMetBeforeTheBody(t *testing.T) {
	for name, auth := range map[string]*access.Auth{"with credentials": newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=a-key-of-the-services"}}), "open": openDoor(t)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newNode(t, auth, access.RatesConfig{PublishRate: onceADay, ClientRate: onceADay, AdminRate: onceADay}, nil)
			c, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "42"}})
			is.NoErr(err)
			defer h.streams.Kick(c, delivery.CloseKicked)
			call := func(target string, body io.Reader, header ...string) int {
				method, target, _ := strings.Cut(target, " ")
				r := httptest.NewRequest(method, target, body)
				r.Host = "localhost"
				r.Header.Set("Content-Type", "application/json")
				for i := 0; i < len(header); i += 2 {
					r.Header.Set(header[i], header[i+1])
				}
				w := httptest.NewRecorder()
				h.API.Handler().ServeHTTP(w, r)
				return w.Code
			}
			person := []string{"Authorization", bearer(t, "tenant", "acme", "sub", "user:42"), "X-Tenant-Id", "acme", "X-Profile-Id", "user:42"}
			service := []string{"X-API-Key", "a-key-of-the-services"}
			is.Equal(call("GET /v1/presence", nil, person...), 200)
			is.Equal(call("POST /v1/tenants/acme/events", strings.NewReader(`{"type":"a.b","payload":1}`), service...), 202)
			is.Equal(call("GET /v1/tenants/acme/presence", nil, service...), 200)
			for _, target := range []string{"PATCH /v1/connections/" + c.ID.String(), "POST /v1/conversations/c/typing", "POST /v1/presence/query"} {
				is.Equal(call(target, unread{t}, person...), 429)
			}
			for _, target := range []string{
				"POST /v1/tenants/acme/events", "POST /v1/tenants/acme/profiles/user:1/events", "POST /v1/tenants/acme/profiles/events",
				"PUT /v1/tenants/acme/groups/g/members", "POST /v1/tenants/acme/presence/query", "GET /v1/tenants/acme/events",
			} {
				is.Equal(call(target, unread{t}, service...), 429)
			}
			if !auth.Open() { // of a key for one tenant it is known whose the events are
				is.Equal(call("POST /v1/events", unread{t}, service...), 429)
				is.Equal(call("POST /v1/events/batch", unread{t}, service...), 429)
			}
		})
	}
}

// slowBody comes when it is told to.
type slowBody struct {
	first   io.Reader
	waiting chan struct{} // closed when the rest is waited for
	rest    chan struct{}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); err == nil {
		return n, nil
	}
	close(b.waiting)
	<-b.rest
	return 0, errors.New("it broke off")
}

// Bodies that are under way take so much memory of one sender, and leave to others what
// they need. What is announced and does not come takes none.
func TestBodiesUnderWayAreBounded(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, access.Config{APIKeys: []string{"acme=a-key-of-acme's-own", "globex=a-key-of-globex's-own"}})
	logs := new(syncBuffer)
	h := newNode(t, auth, access.RatesConfig{}, nil, func(cfg *HubConfig, _ *PresenceConfig) {
		cfg.Quotas = allowance.New(plan.Memory{Calls: 8 << 20})
	})
	h.API.cfg.Logger = slog.New(slog.NewTextHandler(logs, nil))
	handler := checked(t, h.API.Handler())
	var open []chan struct{}
	codes := make(chan int)
	send := func(tenant, path string, body io.Reader, length int) (begun *httptest.ResponseRecorder) {
		r := httptest.NewRequest("POST", path, body)
		r.ContentLength = int64(length)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-API-Key", "a-key-of-"+tenant+"'s-own")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	slowly := func(tenant string, n, length int) (refused *httptest.ResponseRecorder) {
		body := &slowBody{bytes.NewReader(make([]byte, n)), make(chan struct{}), make(chan struct{})}
		over := make(chan *httptest.ResponseRecorder, 1)
		go func() { over <- send(tenant, "/v1/events", body, length) }()
		select {
		case refused = <-over:
			return refused
		case <-body.waiting:
			open = append(open, body.rest)
			go func() { codes <- (<-over).Code }()
			return nil
		}
	}
	for range 100 {
		is.Equal(slowly("acme", 1, 1<<20), nil)
	}
	is.True(h.quotas.Bodies.Total() <= 100*2*4096) // of a hundred megabytes that were announced

	var refused *httptest.ResponseRecorder
	for len(open) < 1000 && refused == nil {
		refused = slowly("acme", 300_000, 1<<20)
	}
	is.True(refused != nil)
	is.Equal(refused.Code, 503)
	is.True(strings.Contains(refused.Body.String(), `"code":"BodiesBusy"`))
	is.Equal(refused.Header().Get("Retry-After"), "1")
	is.True(h.quotas.Bodies.Total() <= 2<<20)
	is.True(strings.Contains(logs.String(), "tenant=acme"))
	event := `{"events":[` + many(100, func(int) string {
		return eventJSON("globex", "a.b", `{"kind":"tenant"}`, `"`+strings.Repeat("x", 5000)+`"`)
	}) + `]}`
	is.Equal(send("globex", "/v1/events/batch", strings.NewReader(event), len(event)).Code, 202) // nobody else notices

	for _, rest := range open {
		close(rest)
		is.Equal(<-codes, 400)
	}
	is.Equal(h.quotas.Bodies.Total(), int64(0))
	is.Equal(send("acme", "/v1/events/batch", strings.NewReader(event), len(event)).Code, 403)
	is.Equal(h.quotas.Bodies.Total(), int64(0))
}

// What a body is made of counts too: a list of short names is many times what it is
// written as.
func TestWhatABodyBringsIsCounted(t *testing.T) {
	is := is.New(t)
	body := `{"members":[` + many(20_000, func(i int) string { return fmt.Sprintf(`"%x"`, i) }) + `]}`
	put := func(calls int64) (int, string) {
		h := newNode(t, openDoor(t), access.RatesConfig{}, nil, func(cfg *HubConfig, _ *PresenceConfig) {
			cfg.Quotas = allowance.New(plan.Memory{Calls: calls})
		})
		w := ask(h.Handler, "PUT", "/v1/tenants/acme/groups/g/members", body)
		is.Equal(h.quotas.Bodies.Total(), int64(0))
		members, err := h.members.Members(t.Context(), "acme", event.Room{Kind: event.KindGroup, ID: "g"}, anyLength)
		is.NoErr(err)
		is.Equal(len(members) > 0, w.Code == 204) // all or nothing
		return w.Code, w.Body.String()
	}
	code, answer := put(4 << 20)
	is.Equal(code, 503)
	is.True(strings.Contains(answer, "BodiesBusy"))
	code, _ = put(16 << 20)
	is.Equal(code, 204)
}

// One who asks for more than its rate of one tenant waits, and nobody else does.
func TestAdministrationHasARate(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, access.Config{APIKeys: []string{"acme=a-key-of-acme's-own", "acme=another-key-of-acme's", "globex=a-key-of-globex's-own", "*=a-key-of-all-tenants"}})
	h := newNode(t, auth, access.RatesConfig{AdminRate: onceADay}, nil)
	codes := func(key, target string) (codes []int) {
		for range 3 {
			w := ask(h.Handler, "GET", target, "", "X-API-Key", key)
			codes = append(codes, w.Code)
			var answer map[string]any
			is.NoErr(json.Unmarshal(w.Body.Bytes(), &answer))
			is.Equal(answer["code"] == "RateLimited", w.Code == 429)
		}
		return codes
	}
	once := []int{200, 429, 429}
	is.Equal(codes("a-key-of-acme's-own", "/v1/tenants/acme/events"), once)
	is.Equal(codes("another-key-of-acme's", "/v1/tenants/acme/events"), []int{429, 429, 429}) // a tenant's keys count together
	is.Equal(codes("a-key-of-globex's-own", "/v1/tenants/globex/connections"), once)
	is.Equal(codes("a-key-of-all-tenants", "/v1/tenants/acme/presence"), once)
	is.Equal(codes("a-key-of-all-tenants", "/v1/tenants/initech/groups/g/members"), once)
	is.Equal(h.API.limits.Met()["admin"], int64(11))
	for range 3 { // publishing has a rate of its own
		is.Equal(ask(h.Handler, "POST", "/v1/tenants/acme/events", `{"type":"a.b","payload":1}`, "X-API-Key", "a-key-of-acme's-own").Code, 202)
	}
	cfg, err := settings.Load(nil)
	is.NoErr(err)
	is.Equal(cfg.AdminRate, 100.0)
}

// However many people of one tenant send at once, its services and others have what one
// caller would leave them.
func TestThePeopleOfATenantAreOneCaller(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=the-api-key-of-acme's", "globex=the-api-key-of-globex's"}})
	h := newNode(t, auth, access.RatesConfig{}, nil, func(cfg *HubConfig, _ *PresenceConfig) {
		cfg.Quotas = allowance.New(plan.Memory{Calls: 8 << 20})
	})
	codes, ends := make(chan int), []chan struct{}{}
	for i := range 300 {
		body := &slowBody{bytes.NewReader(make([]byte, 40_000)), make(chan struct{}), make(chan struct{})}
		r := httptest.NewRequest("POST", "/v1/presence/query", body)
		r.ContentLength = 64 << 10
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", bearer(t, "tenant", "acme", "sub", fmt.Sprint("user:", i)))
		over := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			h.API.Handler().ServeHTTP(w, r)
			over <- w.Code
		}()
		select {
		case code := <-over:
			is.Equal(code, 503)
		case <-body.waiting:
			ends = append(ends, body.rest)
			go func() { codes <- <-over }()
		}
	}
	is.True(len(ends) > 5)
	is.True(len(ends) < 100)
	for _, tenant := range []string{"globex", "acme"} {
		batch := `{"events":[` + many(20, func(int) string {
			return eventJSON(tenant, "a.b", `{"kind":"tenant"}`, `"`+strings.Repeat("x", 10_000)+`"`)
		}) + `]}`
		is.Equal(ask(h.API.Handler(), "POST", "/v1/events/batch", batch, "X-API-Key", "the-api-key-of-"+tenant+"'s").Code, 202)
	}
	for _, end := range ends {
		close(end)
		is.Equal(<-codes, 400)
	}
	is.Equal(h.quotas.Bodies.Total()+h.quotas.People.Total(), int64(0))
}
