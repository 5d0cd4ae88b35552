package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/room/roomtest"
	"realtimehub/internal/sse"
)

func TestOpenModeRefusesForeignHostsAndSites(t *testing.T) {
	h := newTestHub(t)
	handler := h.Handler
	for _, tc := range []struct {
		host, header, value string
		status              int
	}{
		{"localhost:8080", "", "", 200}, {"127.0.0.1:8080", "", "", 200}, {"[::1]:8080", "", "", 200}, {"localhost", "", "", 200}, {"LocalHost:8080", "", "", 200},
		{"evil.example", "", "", 403}, {"localhost.evil.example:8080", "", "", 403}, {"10.0.0.1", "", "", 403}, {"", "", "", 403},
		{"localhost", "Sec-Fetch-Site", "cross-site", 403}, {"localhost", "Sec-Fetch-Site", "same-origin", 200},
		{"localhost", "Sec-Fetch-Site", "none", 200}, {"localhost", "Origin", "https://evil.example", 403},
		{"localhost", "Origin", "null", 403}, {"localhost", "Origin", "http://localhost:3000", 200},
	} {
		t.Run(tc.host+tc.value, func(t *testing.T) {
			is := is.New(t)
			for _, method := range []string{"GET", "HEAD"} {
				r := httptest.NewRequest(method, "/healthz", nil)
				r.Host = tc.host
				if tc.header != "" {
					r.Header.Set(tc.header, tc.value)
				}
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				is.Equal(w.Code, tc.status)
			}
		})
	}
}

func TestErrorsAreProblems(t *testing.T) {
	h := newTestHub(t)
	for _, tc := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/nothing", "", 404, "NotFound"},
		{"DELETE", "/v1/events", "", 405, "MethodNotAllowed"},
		{"POST", "/v1/events", `{`, 400, "MalformedJson"},
		{"POST", "/v1/events", `{}x`, 400, "MalformedJson"},
		{"POST", "/v1/events", `{"type":"a","payload":1,"target":{"kind":"tenant"}}`, 400, "TenantIdRequired"},
		{"POST", "/v1/events", `{"tenantId":"t","payload":1,"target":{"kind":"tenant"}}`, 400, "EventTypeRequired"},
		{"POST", "/v1/events", `{"tenantId":"t","type":"a","payload":1,"target":{"kind":"x"}}`, 400, "InvalidTarget"},
		{"POST", "/v1/events", `{}`, 400, "ValidationFailed"},
		{"POST", "/v1/tenants/t/events", `{"tenantId":"t","type":"a","payload":1}`, 400, "UnknownField"},
		{"POST", "/v1/tenants/t/events", `{"type":"a","payload":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "PayloadTooLarge"},
		{"POST", "/v1/tenants/t/events", `{"type":"a","payload":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "BodyTooLarge"},
		{"POST", "/v1/events/batch", `{"events":[]}`, 400, "InvalidBatchSize"},
		{"GET", "/v1/stream", "", 400, "ValidationFailed"},
		{"GET", "/v1/stream?tenant=t&profile=user:1&types=*,!", "", 400, "InvalidField"},
		{"POST", "/v1/connections/nope/touch", "", 404, "ConnectionNotFound"},
		{"POST", "/v1/conversations/c/typing?tenant=t&profile=user:1", `{"state":"started"}`, 403, "NotAMember"},
		{"GET", "/v1/tenants/../connections", "", 404, ""},
	} {
		t.Run(tc.method+tc.path+tc.code, func(t *testing.T) {
			is := is.New(t)
			status, body := h.do(t, tc.method, tc.path, tc.body)
			is.Equal(status, tc.status)
			if tc.code == "" {
				return
			}
			is.Equal(body["code"], tc.code)
			is.Equal(body["status"], float64(tc.status))
			is.True(body["title"] != "" && body["detail"] != "" && body["type"] != "")
		})
	}
	is := is.New(t)
	res, err := http.Post(h.URL+"/v1/events", "text/plain", strings.NewReader("{}"))
	is.NoErr(err)
	res.Body.Close()
	is.Equal(res.StatusCode, http.StatusUnsupportedMediaType)
	is.Equal(h.Stats().Tenants, 0) // nothing of all this made a tenant
}

// Each fault is told once, by the name of the field as the request has it.
func TestFaultsOfSmallBodiesNameTheirFields(t *testing.T) {
	h := newTestHub(t)
	c := h.open(t, "tenant=t&profile=user:1")
	const members = "PUT /v1/tenants/t/conversations/c/members"
	adjust := "PATCH /v1/connections/" + c.ConnectionID
	for _, tc := range []struct{ call, body, want string }{
		{adjust, `{"foo":1}`, "UnknownField foo"},
		{adjust, `{"foo":[""],"types":5}`, "UnknownField foo, InvalidField types"},
		{adjust, `{"types":[5,""]}`, "InvalidField types[0], InvalidField types[1]"},
		{adjust, `{"types":["a b"]}`, "InvalidField types"},
		{adjust, `{"presence":"none"}`, "InvalidField presence"},
		{adjust, `{"presence":["none"]}`, ""},
		{adjust, `{"presence":["user:2",{"type":"bot","id":"7"}]}`, ""},
		{adjust, `{"presence":["X:2",5]}`, "InvalidProfile presence[0], InvalidProfile presence[1]"},
		{adjust, `{"presence":["a"` + strings.Repeat(`,"a"`, event.MaxAskedProfiles) + `]}`, "InvalidField presence"},
		{members, `{"members":"a"}`, "InvalidField members"},
		{members, `{"members":["a",{"id":"b","role":"x"}]}`, "UnknownField members[1].role"},
		{members, `{"members":["a"],"members":[]}`, "MalformedJson "},
	} {
		t.Run(tc.body, func(t *testing.T) {
			is := is.New(t)
			method, path, _ := strings.Cut(tc.call, " ")
			status, body := h.do(t, method, path, tc.body)
			var got []string
			faults, _ := body["errors"].([]any)
			for _, fault := range faults {
				fault := fault.(map[string]any)
				got = append(got, fmt.Sprint(fault["code"], " ", fault["field"]))
			}
			is.Equal(strings.Join(got, ", "), tc.want)
			is.Equal(status == http.StatusNoContent, tc.want == "")
		})
	}
}

// A body of nothing but mistakes is not answered with one many times as large.
func TestSoManyFaultsAreTold(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	var body strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&body, `,"%x":0`, i)
	}
	status, answer := h.post(t, "/v1/events", `{"type":"a.b"`+body.String()+`}`)
	is.Equal(status, 400)
	is.Equal(len(answer["errors"].([]any)), 1000)
	is.True(strings.HasPrefix(answer["detail"].(string), "1000 faults and perhaps more, the first: 0: "))
}

// TestNDJSONOfAClientThatWritesAllBeforeItReads: 10 MB on a raw socket.
func TestNDJSONOfAClientThatWritesAllBeforeItReads(t *testing.T) {
	event := func(bytes int) string {
		return `{"tenantId":"acme","type":"a.b","payload":"` + strings.Repeat("x", bytes) + `","target":{"kind":"tenant"}}` + "\n"
	}
	for name, tc := range map[string]struct{ query, line, summary string }{
		"accepted":  {"", event(1000), `"refused":0`},
		"results":   {"?results=all", event(100), `"refused":0`}, // many, as the answers are to fill what is not read
		"refused":   {"", strings.Repeat("y", 200) + "\n", `"accepted":0`},
		"empty too": {"", event(1000) + "\r\n", `"refused":0`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := newTestHub(t)
			server := httptest.NewServer(h.API.Handler()) // on a listener that takes nobody for gone who reads nothing for 12 s
			defer server.Close()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			is.NoErr(err)
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Minute)) // nothing is said before all is kept, which takes a folder its time
			n := 10<<20/len(tc.line) + 1
			if testing.Short() {
				n /= 4
			}
			body := strings.Repeat(tc.line, n)
			fmt.Fprintf(conn, "POST /v1/events%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", tc.query, len(body))
			_, err = io.WriteString(conn, body)
			is.NoErr(err) // all of it is taken
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			is.NoErr(err)
			is.Equal(res.StatusCode, 200)
			answer, err := io.ReadAll(res.Body)
			is.NoErr(err)
			lines := strings.Split(strings.TrimSpace(string(answer)), "\n")
			last := lines[len(lines)-1]
			var sum struct{ Accepted, Refused int }
			is.NoErr(json.Unmarshal([]byte(last), &sum))
			is.Equal(sum.Accepted+sum.Refused, n) // it counts them all
			if unconfirmed := strings.Count(string(answer), `"code":"Unconfirmed"`); unconfirmed == 0 {
				is.True(strings.Contains(last, tc.summary))
			} else {
				is.True(*clusterFlag > 0 || *folderFlag) // where the broker is slow
				is.Equal(unconfirmed, sum.Refused)
			}
			if name == "results" || name == "refused" {
				is.Equal(len(lines), n+1)
				is.True(strings.HasPrefix(lines[n-1], fmt.Sprintf(`{"line":%d,`, n)))
			}
		})
	}
}

// What a membership service answers is kept as long as it holds; while the service fails the
// last good answer serves.
func TestMembershipService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var asked, status atomic.Int32
		status.Store(http.StatusInternalServerError)
		hub, handler := ruled(t, roomtest.Transport(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			if r.URL.String() != "http://members.example/m/?conversation=a%2Fb&tenant=acme" || r.Header.Get("Authorization") != "Bearer s3cret" {
				t.Errorf("asked %s with %q", r.URL, r.Header.Get("Authorization"))
			}
			w := httptest.NewRecorder()
			w.WriteHeader(int(status.Load()))
			io.WriteString(w, `{"members":["user:1",{"type":"user","id":"2"}]}`)
			return w.Result(), nil
		}))
		streams := map[string]*delivery.Connection{}
		for _, id := range []string{"1", "3"} {
			c, err := hub.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: id}})
			is.NoErr(err)
			streams[id] = c
		}
		post := func() (code int, receipt struct {
			Code, Cursor string
			Connections  int
		}) {
			t.Helper()
			w := call(handler, "POST", "/v1/tenants/acme/conversations/a%2Fb/events", `{"type":"a.b","payload":1}`)
			is.NoErr(json.Unmarshal(w.Body.Bytes(), &receipt))
			return w.Code, receipt
		}
		expire := func() { time.Sleep(time.Minute) } // no answer holds any more

		code, body := post()
		is.Equal(code, 503) // never resolved
		is.Equal(body.Code, "MembershipUnavailable")

		status.Store(http.StatusOK)
		expire()
		code, body = post()
		is.Equal(code, 202)
		is.Equal(body.Connections, 1)
		place, ok := hub.parse("acme", body.Cursor)
		is.True(ok)
		is.Equal(place.Seq, uint64(1)) // the refused one took no place

		before := asked.Load()
		code, _ = post()
		is.Equal(code, 202)
		is.Equal(asked.Load(), before) // kept

		status.Store(http.StatusInternalServerError)
		expire()
		code, _ = post()
		is.Equal(code, 202) // the last good answer serves

		status.Store(http.StatusNotFound)
		expire()
		code, body = post()
		is.Equal(code, 202)
		is.Equal(body.Connections, 0) // 404 is empty

		is.Equal(call(handler, "PUT", "/v1/tenants/acme/conversations/a%2Fb/members/user:9", "").Code, 409)
		for id, events := range map[string]int{"1": 3, "3": 0} {
			hub.streams.Kick(streams[id], delivery.CloseKicked)
			w := httptest.NewRecorder()
			hub.streams.Engine().Serve(w, httptest.NewRequest("GET", "/", nil), streams[id].Stream)
			is.Equal(strings.Count(w.Body.String(), "event: a.b\n"), events) // of this one
		}
		is.NoErr(hub.streams.Engine().Close(t.Context()))
	})
}
