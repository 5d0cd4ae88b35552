package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/room"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
)

// twoMinutes is for how long each stream is left alone.
const twoMinutes = 2 * time.Minute

// pipes is a listener whose connections never leave the process: so a bubble can have
// its time pass.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.done) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	ours, theirs := newBuffered(a), newBuffered(b)
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// bufferedBytes is how much a buffered end holds before a write waits.
const bufferedBytes = 64 << 10

// buffered is an end of a pipe where a write does not wait for its reader, as a socket's
// does not, until there is much. Else two ends of TLS that say goodbye at once wait for each other, the server
// with its lock held, and a bubble in which somebody waits for a lock stands still.
type buffered struct {
	net.Conn
	mu      sync.Mutex
	pending []byte    // guarded by mu
	closed  bool      // guarded by mu
	until   time.Time // guarded by mu; the deadline of writes
	less    *sync.Cond
	more    chan struct{}
}

func newBuffered(c net.Conn) *buffered {
	b := &buffered{Conn: c, more: make(chan struct{}, 1)}
	b.less = sync.NewCond(&b.mu)
	go b.run()
	return b
}

func (b *buffered) run() {
	for range b.more {
		b.mu.Lock()
		pending, closed := b.pending, b.closed
		b.pending = nil
		b.less.Broadcast()
		b.mu.Unlock()
		if len(pending) > 0 { // or a pipe would wait for a reader of nothing
			b.Conn.Write(pending)
		}
		if closed {
			b.Conn.Close()
			return
		}
	}
}

func (b *buffered) add(p []byte, last bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for waits := true; waits; {
		switch {
		case b.closed:
			return net.ErrClosed
		case !last && !b.until.IsZero() && !time.Now().Before(b.until):
			return os.ErrDeadlineExceeded
		}
		if waits = !last && len(b.pending) >= bufferedBytes; waits {
			b.less.Wait()
		}
	}
	b.less.Broadcast()
	b.pending, b.closed = append(b.pending, p...), last
	select {
	case b.more <- struct{}{}:
	default:
	}
	return nil
}

func (b *buffered) Write(p []byte) (int, error) {
	written := 0
	for piece := range slices.Chunk(p, bufferedBytes) {
		if err := b.add(piece, false); err != nil {
			return written, err
		}
		written += len(piece)
	}
	return written, nil
}

func (b *buffered) SetWriteDeadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until = t
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), b.less.Broadcast)
	}
	return nil
}

func (b *buffered) SetDeadline(t time.Time) error {
	b.SetWriteDeadline(t)
	return b.SetReadDeadline(t)
}

// Close has what was written be read for a second more.
func (b *buffered) Close() error {
	if err := b.add(nil, true); err != nil {
		return err
	}
	b.Conn.SetReadDeadline(time.Unix(0, 0))
	return b.Conn.SetWriteDeadline(time.Now().Add(time.Second))
}

// silentHub is a hub with its server, in a bubble, and a client of one transport.
type silentHub struct {
	*Hub
	api    *api
	client *http.Client
	url    string
	end    func()
}

// newSilentHub starts a hub with the default settings, but for some. Its certificate
// is made before the bubble's time begins, which is the year 2000.
func newSilentHub(t *testing.T, secure, http2 bool, s ...string) *silentHub {
	t.Helper()
	cfg, err := settings.Load(s)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	hub := NewHub(HubConfig{
		Retry: cfg.Retry, Heartbeat: cfg.Heartbeat, StreamBuffer: cfg.StreamBuffer, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: logger,
	}, PresenceConfig{Audience: settings.AudienceNone, Grace: time.Second}, nil, Reporting{})
	api := NewAPI(hub, openDoor(t), access.NewRates(access.RatesConfig{PublishRate: cfg.PublishRate}), APIConfig{
		MaxEventBytes: cfg.MaxEventBytes, MaxBodyBytes: cfg.MaxBodyBytes, Logger: logger,
	})
	h := &silentHub{Hub: hub, api: api, url: "http://localhost:8080"}
	listener := newPipes()
	var certificate *serve.Certificate
	var roots *x509.CertPool
	if secure {
		cert, key := hubtest.WriteCertificate(t, t.TempDir(), "localhost")
		if certificate, err = serve.LoadCertificate(cert, key, logger); err != nil {
			t.Fatal(err)
		}
		roots, h.url = hubtest.RootsOf(t, cert), "https://localhost:8080"
	}
	server := serve.NewServer(checked(t, api.Handler()), certificate, api.ErrorLog())
	served := make(chan struct{})
	go func() {
		defer close(served)
		if secure {
			server.ServeTLS(listener, "", "")
		} else {
			server.Serve(listener)
		}
	}()
	transport := hubtest.TransportTo(secure, http2, roots, listener.dial)
	h.client = &http.Client{Transport: transport}
	h.end = func() {
		transport.CloseIdleConnections()
		server.Close()
		<-served
		last, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := hub.streams.Engine().Close(last); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second) // of what is said last
		synctest.Wait()
	}
	return h
}

// eachTransport runs a test in a bubble for each way to speak to a hub.
func eachTransport(t *testing.T, test func(t *testing.T, secure, http2 bool)) {
	for name, way := range hubtest.Transports {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, way.Secure, way.HTTP2) })
		})
	}
}

// Who has begun a request, and does not finish its head, is waited for 5 s.
func TestHalfAHeaderIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		conn, err := h.client.Transport.(*http.Transport).DialContext(t.Context(), "", "")
		is.NoErr(err)
		defer conn.Close()
		begun := time.Now()
		_, err = io.WriteString(conn, "GET /v1/stream?tenant=acme&profile=user:1 HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
		is.NoErr(err)
		_, err = io.Copy(io.Discard, conn)
		is.NoErr(err)
		is.Equal(time.Since(begun), 5*time.Second)
	})
}

// A stream that nothing happens on for two minutes is still open, and says what
// happens then: through each transport, however often there is a heartbeat.
func TestASilentStreamStaysOpen(t *testing.T) {
	for _, setting := range []string{"REALTIME_HEARTBEAT=15s", "REALTIME_HEARTBEAT=20s", "REALTIME_HEARTBEAT=0"} {
		t.Run(setting, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, secure, http2 bool) {
				is := is.New(t)
				h := newSilentHub(t, secure, http2, setting)
				defer h.end()
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				req, err := http.NewRequestWithContext(ctx, "GET", h.url+"/v1/stream?tenant=acme&profile=user:1", nil)
				is.NoErr(err)
				res, err := h.client.Do(req)
				is.NoErr(err)
				is.Equal(res.ProtoMajor == 2, http2)
				reader := newStreamReader(t, res.Body)
				e, err := reader.Next()
				is.NoErr(err)
				is.Equal(e.Type, "hub.ready")
				next := make(chan string, 1)
				go func() {
					event, err := reader.Next()
					next <- fmt.Sprint(event.Type, err)
				}()
				time.Sleep(twoMinutes)
				synctest.Wait()
				is.Equal(len(next), 0) // nothing came but heartbeats, and no end
				_, err = h.Publish(t.Context(), []*event.Event{{TenantID: "acme", Type: "a.b", Payload: []byte("1"), Target: event.ToTenant()}})
				is.NoErr(err)
				is.Equal(<-next, "a.b<nil>")
				leave()
				synctest.Wait()
				is.Equal(h.streams.Engine().Streams(), 0)
			})
		})
	}
}

// The doctor's silent stream, which has no heartbeats, is cut by no hub.
func TestASilentProbeStaysOpen(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		res, err := h.client.Get(h.url + "/v1/doctor?every=0&for=2m")
		is.NoErr(err)
		reader := newStreamReader(t, res.Body)
		var types []string
		for {
			event, err := reader.Next()
			if err == io.EOF {
				break
			}
			is.NoErr(err)
			types = append(types, event.Type)
		}
		is.Equal(strings.Join(types, " "), "doctor.hello doctor.done")
	})
}

// An NDJSON publisher that was answered something, and has little to say for two
// minutes, is answered at the end as well.
func TestASlowPublisherIsAnswered(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		body, lines := io.Pipe()
		defer body.Close()
		const event = `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}` + "\n"
		go func() {
			io.WriteString(lines, "{\n"+event)
			for range twoMinutes / (20 * time.Second) {
				time.Sleep(20 * time.Second) // less than a body may be silent
				io.WriteString(lines, event)
			}
			lines.Close()
		}()
		is.Equal(publishSlowly(t, h, body), `{"accepted":7,"refused":1}`)
	})
}

// publishSlowly posts NDJSON and returns how many lines were accepted and refused, as
// the summary says.
func publishSlowly(t *testing.T, h *silentHub, body io.Reader) string {
	t.Helper()
	is := is.New(t)
	res, err := h.client.Post(h.url+"/v1/events", "application/x-ndjson", body)
	is.NoErr(err)
	answer, err := io.ReadAll(res.Body)
	is.NoErr(err)
	all := strings.Split(strings.TrimSpace(string(answer)), "\n")
	summary, _, _ := strings.Cut(all[len(all)-1], `,"duplicates"`)
	return summary + "}"
}

// The time that a body may be silent is not running while the hub itself keeps its
// publisher waiting.
func TestAPublisherWhoIsKeptWaitingIsNotLate(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2, "REALTIME_PUBLISH_RATE=1")
		defer h.end()
		const event = `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}` + "\n"
		body, lines := io.Pipe()
		defer body.Close()
		go func() {
			const minute = 64                                      // events, at this rate
			io.WriteString(lines, strings.Repeat(event, 2*minute)) // the first are taken from a full bucket
			time.Sleep(45 * time.Second)                           // while the others wait
			io.WriteString(lines, strings.Repeat(event, minute))
			lines.Close()
		}()
		is.Equal(publishSlowly(t, h, body), `{"accepted":192,"refused":0}`)
	})
}
