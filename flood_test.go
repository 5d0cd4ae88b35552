package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
)

// serveHTTP2 serves as the program does.
func serveHTTP2(t *testing.T, handler http.Handler) (at string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := serve.NewServer(handler, nil, log.New(io.Discard, "", 0))
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String()
}

// stuckLog does not say where acme's history is until it is let.
type stuckLog struct {
	*history.Memory
	let chan struct{}
}

func (l *stuckLog) Attach(ctx context.Context, tenant string) (history.Cursor, error) {
	if tenant == "acme" {
		<-l.let
	}
	return l.Memory.Attach(ctx, tenant)
}

// A flood of streams of a tenant takes turns, so that it has another's come in at once; and
// those that are reset before they are opened never are.
func TestStreamsThatAreResetAreNotOpened(t *testing.T) {
	alone(t, "it stops one hub's log")
	const asked = 200
	is := is.New(t)
	log := &stuckLog{history.NewMemory(testLimits), make(chan struct{})}
	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) { hub.Log = log })
	var began, over atomic.Int32
	handler := h.API.Handler()
	f := dialFramed(t, serveHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer over.Add(1)
		began.Add(1)
		handler.ServeHTTP(w, r)
	})), "", 1<<20)
	for range asked {
		f.ask("/v1/stream?tenant=acme&profile=me", "")
	}
	eventually(t, func() bool { return began.Load() == asked })
	h.open(t, "tenant=well&profile=me")
	for stream := uint32(1); stream < f.stream; stream += 2 {
		f.write(resetFrame, 0, stream, binary.BigEndian.AppendUint32(nil, 8))
	}
	eventually(t, func() bool { return over.Load() == asked }) // also the one that waits for the log
	close(log.let)
	opened := int64(0)
	for _, n := range h.Stats().Connects {
		opened += n
	}
	is.Equal(opened, int64(1)) // the other tenant's
}

// A request that was reset before its handler began does nothing.
func TestRequestsThatAreResetDoNothing(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	gone, leave := context.WithCancel(t.Context())
	leave()
	r := httptest.NewRequestWithContext(gone, "POST", "http://localhost/v1/events", strings.NewReader(eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")))
	r.Header.Set("Content-Type", "application/json")
	r.ProtoMajor = 2
	func() {
		defer func() { is.Equal(recover(), http.ErrAbortHandler) }()
		h.API.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}()
	page, _, err := h.History(t.Context(), "acme", "", 10)
	is.NoErr(err)
	is.Equal(len(page.Entries), 0)
}

// The head of a request has so many lines, which take far more memory than they have bytes:
// one that has more is refused, and with HTTP/2 nothing of it stays.
func TestLinesOfAHead(t *testing.T) {
	is := is.New(t)
	const most = 100 // lines
	at := strings.TrimPrefix(startHub(t), "http://")
	for lines, status := range map[int]string{most: "200", most + 1: "431"} {
		var headers []string
		for i := range lines {
			headers = append(headers, fmt.Sprint("a", i%50), "1")
		}
		answer, err := io.ReadAll(dialAs(t, at, rawRequest("/healthz", headers...)+rawRequest("/healthz", "Connection", "close")))
		is.NoErr(err)
		is.Equal(string(answer[len("HTTP/1.1 "):len("HTTP/1.1 200")]), status)
		is.Equal(strings.Count(string(answer), "HTTP/1.1 "), map[string]int{"200": 2, "431": 1}[status])
	}
	f := dialFramed(t, at, "", 1<<20)
	head := append([]byte{0x82, 0x86, 0x04, 8}, "/healthz\x01\x09localhost"...)
	for i := range most + 1 {
		name := fmt.Sprint("a", i)
		head = append(append(append(head, 0, byte(len(name))), name...), 1, '1')
	}
	f.write(headersFrame, 0x4|endStream, 1, head)
	for {
		kind, _, stream := f.next()
		is.True(kind != headersFrame)
		if kind == resetFrame {
			is.Equal(stream, uint32(1))
			break
		}
	}
}

// Whoever tells of presence does not have other tenants wait for one that is busy.
func TestABusyTenantKeepsNobodyFromPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		hub, presence := newQuietHub(allowance.New(plan.Of(1 << 30)))
		presence.cfg.Audience = settings.AudienceTenant
		told := make(chan string, 1)
		busy := make(chan struct{})
		presence.announcer.notify = func(tenant string, _ []delivery.Notice, _ *event.Event, _ bool) {
			if tenant != "well" {
				<-busy
				return
			}
			told <- tenant
		}
		for i := range 8 {
			hub.people.Connected(delivery.NewRemote(uuid.New(), fmt.Sprint("acme-", i), alice, time.Now(), time.Now(), nil))
		}
		hub.people.Connected(delivery.NewRemote(uuid.New(), "well", alice, time.Now(), time.Now(), nil))
		go presence.tick(time.Now())
		is.Equal(<-told, "well")
		close(busy)
		synctest.Wait()
		is.NoErr(hub.streams.Engine().Close(t.Context()))
	})
}
