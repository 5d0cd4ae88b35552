package main

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/plan"
)

// Over HTTP/2 a stream keeps its handler: a person has as many as they can pay for, and
// fewer of those whose requests have long heads.
func TestStreamsThatKeepTheirHandlerArePaidFor(t *testing.T) {
	for name, head := range map[string]string{"usual": "", "long": strings.Repeat("x", 14<<10)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			url := startHub(t, "REALTIME_JWT_SECRET="+testSecret, "REALTIME_STATE_BYTES=4194304") // of three quarters of it one may have a ninth
			at := strings.TrimPrefix(url, "http://")
			transport := hubtest.TransportTo(false, true, nil, func(context.Context, string, string) (net.Conn, error) { return dialAs(t, at, ""), nil })
			defer transport.CloseIdleConnections()
			opened, turnedAway := 0, 0
			for range 20 {
				req, err := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/stream?presence=none", nil)
				is.NoErr(err)
				req.Header.Set("Authorization", bearer(t))
				req.Header.Set("X-Long", head)
				res, err := transport.RoundTrip(req)
				is.NoErr(err)
				t.Cleanup(func() { res.Body.Close() })
				for lines := bufio.NewScanner(res.Body); lines.Scan(); {
					if lines.Text() == "event: hub.ready" {
						opened++
						break
					}
					if lines.Text() == "event: hub.closing" {
						turnedAway++
						break
					}
				}
			}
			const connectionBytes = 1200 // what is kept of each connection
			most := (4<<20/4*3/9 - access.SocketBytes) / (handlerBytes + connectionBytes + len(head))
			is.True(opened > 0 && opened <= most) // as many as there is memory for
			is.Equal(opened+turnedAway, 20)
		})
	}
}

// handlerBytes is what is kept of a stream whose handler stays.
const handlerBytes = 20 << 10

// unreadAnswer is an answer that nobody reads until that is let go.
type unreadAnswer struct {
	http.ResponseWriter
	writes chan struct{} // one for each write that waits
	read   chan struct{}
}

func (u *unreadAnswer) Write(p []byte) (int, error) {
	u.writes <- struct{}{}
	<-u.read
	return len(p), nil
}
func (u *unreadAnswer) Header() http.Header { return http.Header{} }
func (u *unreadAnswer) WriteHeader(int)     {}
func (u *unreadAnswer) FlushError() error   { return nil }

// Whoever does not read keeps the handlers of streams that have given way to others: it
// pays for all of them.
func TestStreamsThatAreOverArePaidForWhileTheirHandlersWait(t *testing.T) {
	is := is.New(t)
	quotas := allowance.New(plan.Of(1 << 30))
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Quotas, cfg.Most.Profile = quotas, 1 })
	who := event.TenantProfile{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "1"}}
	const streams = 5
	answer := &unreadAnswer{nil, make(chan struct{}, 2*streams), make(chan struct{})}
	ended := make(chan struct{})
	for range streams {
		go func() {
			defer func() { ended <- struct{}{} }()
			r, _ := http.NewRequestWithContext(context.Background(), "GET", "http://localhost/v1/stream?tenant=acme&profile=user:1", nil)
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
			h.API.Handler().ServeHTTP(answer, r)
		}()
		<-answer.writes
	}
	is.Equal(len(h.streams.Connections(who.Tenant, &who.Profile)), 1)
	is.True(quotas.Person.Of(who) >= streams*handlerBytes)
	is.True(quotas.State.Of(who.Tenant) >= streams*handlerBytes)
	close(answer.read)
	h.streams.Drain(t.Context(), 0)
	for range streams {
		<-ended
	}
	eventually(t, func() bool { return quotas.Person.Of(who) == 0 })
}

// Who is turned away costs what it is told, and no buffer of a size that others need.
func TestWhoIsTurnedAwayCostsLittle(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	is := is.New(t)
	h := newTestHub(t)
	h.streams.Refuse()
	handler := h.API.Handler()
	turnAway := func() {
		r := httptest.NewRequest("GET", "http://localhost/v1/stream?tenant=acme&profile=user:1", nil)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		is.True(strings.Contains(w.Body.String(), "hub.closing"))
	}
	turnAway()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const times = 100
	for range times {
		turnAway()
	}
	runtime.ReadMemStats(&after)
	is.True((after.TotalAlloc-before.TotalAlloc)/times < 32<<10)
}

// A TLS session is paid for as long as its stream is open, though no handler stays with it.
func TestSessionsArePaidFor(t *testing.T) {
	is := is.New(t)
	quotas := allowance.New(plan.Of(1 << 30))
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Quotas = quotas })
	who := event.TenantProfile{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "1"}}
	open := func() (takes int64, c *testClient) {
		before := quotas.Person.Of(who)
		c = h.open(t, "tenant=acme&profile=user:1&presence=none")
		return quotas.Person.Of(who) - before, c
	}
	h.door = hubtest.SSE
	clear, c := open()
	c.close()
	eventually(t, func() bool { return quotas.Person.Of(who) == 0 })
	h.speakTLS(t)
	secure, c := open()
	is.Equal(secure-clear, int64(sessionBytes))
	c.close()
	eventually(t, func() bool { return quotas.Person.Of(who) == 0 })
}

// sessionBytes is what is kept of a stream's TLS session.
const sessionBytes = 7 << 10
