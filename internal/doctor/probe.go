package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/sse"
)

// arrival is an event and when it was sent, since the hello, and came, since the
// request: by two clocks, so only differences mean anything.
type arrival struct {
	sent, came time.Duration
}

// trial is one probe, from its request to its end.
type trial struct {
	err    error // why there is no answer, or none that is a stream
	status int
	proto  string
	header http.Header
	gzip   bool   // it came compressed; a Content-Encoding that we did not ask for stays in header
	body   string // the beginning of an answer that is no stream

	connected time.Duration // what the connection took, TLS included
	firstByte time.Duration // from the request to the first byte of the answer; 0: none came
	asked     time.Time
	lived     time.Duration // from the request to the end
	expired   bool          // it was we who ended it: all should have been over

	streams int // that the connection takes at once, HTTP/2's SETTINGS; 0: not said

	hello    *Hello
	arrivals []arrival // of the hello and each tick
	gone     []Gone    // other probes
	bytes    int64
	done     bool   // it ended when it was to
	closing  string // the reason of the hub's own hub.closing
}

// progress is what is known of a trial that goes on.
type progress struct {
	mu sync.Mutex
	// Guarded by mu.
	ticks int
	last  time.Time // that anything came
	over  bool
}

func (p *progress) note(event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if event == EventTick {
		p.ticks++
	}
	p.last = time.Now()
}

// probe asks for one stream and reads it to its end, or until ctx has one. Each has
// a connection of its own: ticks must not keep alive what a silent stream shares.
type probe struct {
	url    *url.URL
	post   bool   // instead of GET
	origin string // of the page that asks for a WebSocket; empty: a probe that asks for none
	token  string
	every  time.Duration // 0: silent
	lasts  time.Duration
	http1  bool // instead of what is negotiated
	leaves bool // once the hello came
	tell   string
	greets func(*Hello) // is called when the hello came; may be nil
	tls    *tls.Config
	grace  time.Duration // how long after its time an answer is waited for
	report *progress     // may be nil
}

// What a server may make the doctor keep. Of the longest watch there are 8,000 ticks.
const (
	mostHead  = 64 << 10 // bytes of an answer's head
	mostTicks = 10_000
	mostGone  = 100
)

// run asks again where the hub has as many probes as it allows: another doctor may be
// at work, and has most of its own for a second only.
func (p probe) run(ctx context.Context) (t trial) {
	ctx, cancel := context.WithTimeout(ctx, p.lasts+p.grace) // for all tries, however long each takes
	defer cancel()
	for range tries {
		if t = p.once(ctx); !t.busy() {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	if p.report != nil {
		p.report.mu.Lock()
		p.report.over = true
		p.report.mu.Unlock()
	}
	return t
}

func (t *trial) busy() bool {
	return t.status == http.StatusServiceUnavailable && strings.Contains(t.problem(), "ProbesBusy")
}

// once asks for the stream, on a connection of its own, and reads it to its end.
func (p probe) once(ctx context.Context) (t trial) {
	ctx, cancel := context.WithTimeout(ctx, p.lasts+p.grace)
	defer cancel()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!p.http1 && !p.upgrades())
	// A copy, since the transport writes its protocols there.
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, Protocols: protocols, TLSClientConfig: p.tls.Clone(), MaxResponseHeaderBytes: mostHead}
	start := time.Now()
	t.asked = start
	defer func() {
		t.lived = time.Since(t.asked)
		t.expired = errors.Is(ctx.Err(), context.DeadlineExceeded)
	}()
	conn, err := transport.NewClientConn(ctx, p.url.Scheme, hostPort(p.url))
	if err != nil {
		t.err = err
		return t
	}
	defer conn.Close()
	t.asked = time.Now()
	t.connected = t.asked.Sub(start)
	asked := t.asked
	var first atomic.Int64 // since asked; a late callback may meet our return
	req, err := p.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotFirstResponseByte: func() { first.Store(int64(time.Since(asked))) },
	}))
	if err != nil {
		t.err = err
		return t
	}
	// Where a redirect leads is for the user to decide: it may be a login page, and
	// must not be told the token. A connection follows none.
	res, err := conn.RoundTrip(req)
	if err != nil {
		t.err = err
		return t
	}
	defer res.Body.Close()
	t.firstByte = time.Duration(first.Load())
	if res.ProtoMajor == 2 {
		t.streams = conn.Available() + conn.InFlight()
	}
	context.AfterFunc(ctx, func() { res.Body.Close() }) // a WebSocket does not heed ctx
	t.answered(res, p)
	return t
}

// request asks for the stream as an EventSource does.
func (p probe) request(ctx context.Context) (*http.Request, error) {
	u := *p.url
	query := url.Values{"every": {p.every.String()}, "for": {p.lasts.String()}}
	if p.tell != "" {
		query.Set("tell", p.tell)
	}
	if !strings.HasSuffix(u.Path, doctorPath) {
		query.Set("doctor", "true") // a door serves others, too
	}
	u.RawQuery = query.Encode()
	method := http.MethodGet
	if p.post {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if p.upgrades() {
		askForSocket(req.Header, p.origin)
	}
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("User-Agent", "realtimehub-doctor")
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	return req, nil
}

// answered takes an answer: its head, and its stream or the beginning of what is none.
func (t *trial) answered(res *http.Response, p probe) {
	t.status, t.proto, t.header, t.gzip = res.StatusCode, res.Proto, res.Header, res.Uncompressed
	conn, isSocket := res.Body.(io.ReadWriter)
	switch {
	case !t.opened():
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		t.body = string(b)
	case isSocket && !accepts(res):
		t.err = errAccept
	case isSocket:
		t.readSocket(conn, p)
	default:
		t.read(res.Body, p)
	}
}

// opened says that the answer is a stream, or a WebSocket.
func (t *trial) opened() bool {
	return t.status == http.StatusOK || t.status == http.StatusSwitchingProtocols
}

// hostPort is where a URL's server is.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]))
}

// read takes the stream's events until it ends.
func (t *trial) read(body io.Reader, p probe) {
	reader := sse.NewReader(&counter{body, &t.bytes, &t.body})
	reader.MaxLine = 64 << 10 // a page that is no stream may be one line
	for {
		event, err := reader.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.err = err
			}
			return
		}
		if t.take(event.Type, []byte(event.Data), p) {
			return
		}
	}
}

// take takes an event, and says whether it is the last that matters.
func (t *trial) take(event string, data []byte, p probe) (last bool) {
	came := time.Since(t.asked)
	switch event {
	case EventHello:
		if t.hello != nil {
			break // a hub says it once
		}
		t.hello = &Hello{}
		if err := json.Unmarshal(data, t.hello); err != nil {
			t.hello, t.err = nil, err
			return true
		}
		t.arrivals = append(t.arrivals, arrival{0, came})
		if p.greets != nil {
			p.greets(t.hello)
		}
	case EventTick:
		var tick Tick
		if len(t.arrivals) <= mostTicks && json.Unmarshal(data, &tick) == nil {
			t.arrivals = append(t.arrivals, arrival{time.Duration(tick.ElapsedMS) * time.Millisecond, came})
		}
	case EventGone:
		var gone Gone
		if len(t.gone) < mostGone && json.Unmarshal(data, &gone) == nil {
			t.gone = append(t.gone, gone)
		}
	case EventDone:
		t.done = true
	case "hub.closing":
		var last struct{ Reason string }
		json.Unmarshal(data, &last)
		t.closing = last.Reason
	}
	if p.report != nil {
		p.report.note(event)
	}
	return p.leaves && t.hello != nil
}

// cut says that a trial ended before its time, and neither by the hub's own word nor
// by our patience.
func (t *trial) cut() bool { return !t.done && t.closing == "" && !t.expired }

// ended is when it was over.
func (t *trial) ended() time.Time { return t.asked.Add(t.lived) }

// counter counts what is read, and keeps its beginning.
type counter struct {
	r     io.Reader
	n     *int64
	begin *string
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	*c.n += int64(n)
	if room := 4<<10 - len(*c.begin); room > 0 {
		*c.begin += string(b[:min(n, room)])
	}
	return n, err
}
