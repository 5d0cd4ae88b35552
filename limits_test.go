package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/serve"
	"realtimehub/internal/sse"
)

func TestConnectionLimits(t *testing.T) {
	alone(t, "limits are each hub's own")
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) {
		c.Most = delivery.Limits{All: 6, Tenant: 4, Profile: 2}
	})
	refused := func(query string) {
		t.Helper()
		res, err := h.client.Get(h.URL + "/v1/stream?" + query)
		is.NoErr(err)
		defer res.Body.Close()
		is.Equal(res.StatusCode, http.StatusOK) // or EventSource would give up
		reader := newStreamReader(t, res.Body)
		event, err := reader.Next()
		is.NoErr(err)
		is.Equal(event.Type, "hub.closing")
		is.True(strings.Contains(event.Data, `"reason":"capacity"`))
		_, err = reader.Next()
		is.True(err != nil)
	}
	oldest := h.open(t, "tenant=acme&profile=user:1")
	second := h.open(t, "tenant=acme&profile=user:1")
	third := h.open(t, "tenant=acme&profile=user:1")
	closing := oldest.next(t)
	is.Equal(closing.Type, "hub.closing")
	is.True(strings.Contains(closing.Data, `"reason":"replaced"`))
	h.open(t, "tenant=acme&profile=user:2")
	h.open(t, "tenant=acme&profile=user:3")
	refused("tenant=acme&profile=user:4")
	is.Equal(len(h.streams.Connections("acme", nil)), 4)
	h.open(t, "tenant=acme&profile=user:1") // takes second's place, full as the tenant is
	is.Equal(second.next(t).Type, "hub.closing")
	h.open(t, "tenant=globex&profile=user:1")
	h.open(t, "tenant=globex&profile=user:2")
	refused("tenant=globex&profile=user:3")
	refused("tenant=initech&profile=user:1")
	is.Equal(h.Stats().Tenants, 2) // a refused stream leaves no tenant
	third.close()
	for len(h.streams.Connections("acme", nil)) > 3 { // until it was noticed
		is.NoErr(t.Context().Err())
	}
	h.open(t, "tenant=globex&profile=user:3")
}

// A publish flood is 429 for its tenant alone; floods of typing and touches for
// their profile alone.
func TestFloods(t *testing.T) {
	alone(t, "limits are each hub's own")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{PublishRate: 20, ClientRate: 20})
	handler := h.Handler
	token := func(tenant, sub string) string {
		return bearer(t, "tenant", tenant, "sub", sub, "scope", "subscribe publish admin")
	}
	flooder, other, neighbour := token("acme", "user:1"), token("acme", "user:2"), token("globex", "user:1")
	c, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "1"}})
	is.NoErr(err)
	for _, sub := range []string{"user:1", "user:2"} {
		is.Equal(ask(handler, "PUT", "/v1/tenants/acme/conversations/c/members/"+sub, "", "Authorization", flooder).Code, 204)
	}
	const event, typing = `{"type":"a.b","payload":1}`, `{"state":"started"}`
	for _, tc := range []struct{ method, path, body, unmoved, unmovedPath string }{
		{"POST", "/v1/tenants/acme/events", event, neighbour, "/v1/tenants/globex/events"},
		{"POST", "/v1/conversations/c/typing", typing, other, "/v1/conversations/c/typing"},
		{"POST", "/v1/connections/" + c.ID.String() + "/touch", "", other, "/v1/presence"},
		{"GET", "/v1/presence", "", other, "/v1/presence"},
	} {
		accepted, refused := 0, 0
		start := time.Now()
		for range 500 {
			w := ask(handler, tc.method, tc.path, tc.body, "Authorization", flooder)
			switch w.Code {
			case http.StatusTooManyRequests:
				refused++
				wait, err := strconv.Atoi(w.Header().Get("Retry-After"))
				is.NoErr(err)
				is.True(wait >= 1)
				is.True(strings.Contains(w.Body.String(), `"code":"RateLimited"`))
			case 200, 202, 204:
				accepted++
			default:
				t.Fatal(w.Code, w.Body)
			}
		}
		is.True(refused > 0)
		is.True(accepted <= 20+int(20*time.Since(start).Seconds())+1)
		method := tc.method
		if tc.unmovedPath == "/v1/presence" {
			method = "GET"
		}
		w := ask(handler, method, tc.unmovedPath, tc.body, "Authorization", tc.unmoved)
		is.True(w.Code >= 200 && w.Code < 300) // nobody else's limit
	}
	c.Stream.Close(h.streams.Encoder(sse.Encoding{}).Closing(delivery.CloseKicked, 0))
}

// One byte over a limit is 413 and nothing is delivered; the limit itself passes.
func TestSizesAreExact(t *testing.T) {
	alone(t, "it configures one hub")
	h := newTestHub(t)
	h.API.publishing.bodies, h.API.publishing.maxEvent = 4096, 1024
	listener := h.open(t, "tenant=acme&profile=user:1")
	bodyOf := func(size int) string {
		frame := `{"type":"a.b","payload":1` + `}`
		return frame[:1] + strings.Repeat(" ", size-len(frame)) + frame[1:]
	}
	payloadOf := func(size int) string { return `{"type":"a.b","payload":"` + strings.Repeat("x", size-2) + `"}` }
	for _, tc := range []struct {
		name, body string
		status     int
	}{
		{"body", bodyOf(4096), 202}, {"body + 1", bodyOf(4097), 413}, {"payload", payloadOf(1024), 202}, {"payload + 1", payloadOf(1025), 413},
	} {
		t.Run(tc.name, func(t *testing.T) {
			is := is.New(t)
			status, _ := h.post(t, "/v1/tenants/acme/events", tc.body)
			is.Equal(status, tc.status)
		})
	}
	is := is.New(t)
	h.publish(t, "acme", "last.one", `{"kind":"tenant"}`, "1")
	var got []string
	for {
		event := listener.next(t)
		got = append(got, event.Type)
		if event.Type == "last.one" {
			break
		}
	}
	is.Equal(got, []string{"a.b", "a.b", "last.one"})

	req, err := http.NewRequest("GET", h.URL+"/healthz", nil)
	is.NoErr(err)
	h.Server.Config.MaxHeaderBytes = 16 << 10
	req.Header.Set("X-Large", strings.Repeat("x", 32<<10))
	res, err := h.client.Do(req)
	is.NoErr(err)
	res.Body.Close()
	is.Equal(res.StatusCode, http.StatusRequestHeaderFieldsTooLarge)
}

func TestTransport(t *testing.T) {
	is := is.New(t)
	cert, key := hubtest.WriteCertificate(t, t.TempDir(), "first")
	start := func(settings ...string) (addr string) {
		ctx, stop := context.WithCancel(t.Context())
		listening, done := make(chan net.Addr, 1), make(chan error, 1)
		go func() {
			done <- run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_PRESENCE_AUDIENCE=none"), io.Discard, func(a net.Addr) { listening <- a })
		}()
		t.Cleanup(func() {
			stop()
			is.NoErr(<-done)
		})
		return (<-listening).String()
	}
	secure, clear := start("REALTIME_TLS_CERT="+cert, "REALTIME_TLS_KEY="+key), start()
	is.NoErr(serve.CheckHealth(secure, true))
	is.True(serve.CheckHealth(secure, false) != nil)

	client := func(http2, unencrypted bool) *http.Client {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2 && !unencrypted)
		protocols.SetUnencryptedHTTP2(unencrypted)
		transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		t.Cleanup(transport.CloseIdleConnections)
		return hubtest.CheckedClient(t, transport)
	}
	for name, tc := range map[string]struct {
		client *http.Client
		url    string
		major  int
	}{
		"HTTP/1.1 over TLS": {client(false, false), "https://" + secure, 1}, "HTTP/2 over TLS": {client(true, false), "https://" + secure, 2},
		"HTTP/1.1": {client(false, false), "http://" + clear, 1}, "h2c": {client(true, true), "http://" + clear, 2},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var readers []*hubtest.Reader
			var conns []net.Conn
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { conns = append(conns, got.Conn) }})
			for i := range 3 { // over HTTP/2 on one connection
				req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprint(tc.url, "/v1/stream?tenant=acme&profile=user:", i), nil)
				is.NoErr(err)
				res, err := tc.client.Do(req)
				is.NoErr(err)
				defer res.Body.Close()
				is.Equal(res.ProtoMajor, tc.major)
				is.Equal(res.Header.Get("Content-Type"), "text/event-stream")
				reader := newStreamReader(t, res.Body)
				event, err := reader.Next()
				is.NoErr(err)
				is.Equal(event.Type, "hub.ready")
				readers = append(readers, reader)
			}
			is.Equal(conns[0] == conns[2], tc.major == 2)
			for range 3 {
				res, err := tc.client.Post(tc.url+"/v1/tenants/acme/events", "application/json", strings.NewReader(`{"type":"a.b","payload":1}`))
				is.NoErr(err)
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				is.Equal(res.StatusCode, 202)
			}
			for _, reader := range readers {
				for range 3 {
					event, err := reader.Next()
					is.NoErr(err)
					is.Equal(event.Type, "a.b")
				}
			}
		})
	}
	_, err := tls.Dial("tcp", secure, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	is.True(err != nil) // TLS 1.1
	conn, err := tls.Dial("tcp", secure, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	is.NoErr(err)
	conn.Close()
}

// With a rate limit an NDJSON body is read more slowly, and nothing of it is refused.
func TestARateLimitSlowsNDJSON(t *testing.T) {
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{PublishRate: 1000})
	const lines = 1500
	start := time.Now()
	res, err := h.client.Post(h.URL+"/v1/events", "application/x-ndjson", strings.NewReader(strings.Repeat(eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")+"\n", lines)))
	is.NoErr(err)
	defer res.Body.Close()
	answer, err := bufio.NewReader(res.Body).ReadString('\n')
	is.NoErr(err)
	is.True(strings.Contains(answer, fmt.Sprintf(`{"accepted":%d,"refused":0`, lines)))
	is.True(time.Since(start) >= 400*time.Millisecond) // 500 of them had to wait
}
