package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/doctor"
	"realtimehub/internal/hubtest"
)

// faults are what a proxy does wrong; 0: not that.
type faults struct {
	hold        int // bytes that it collects before it lets any go, unless it ends
	idle, total time.Duration
	drop        string // a header that it takes away
	kind        string // the Content-Type that it makes of any
	host        bool   // that it was asked for is lost
	deaf        bool   // it does not tell the hub that a client left
	few         int    // streams that it lets a client have
	hop         bool   // it takes the header Upgrade away

	wait time.Duration // for the head of an answer, before it makes one itself

	cut chan<- time.Duration // has how long a stream was idle, or lived, when it was cut
}

// newProxy is a proxy before a hub, with faults.
func newProxy(t testing.TB, to string, f faults) *httptest.Server {
	transport := &http.Transport{DisableCompression: true, ResponseHeaderTimeout: f.wait}
	var open atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if now := open.Add(1); f.few > 0 && now > int64(f.few) {
			open.Add(-1)
			http.Error(w, "too many", http.StatusServiceUnavailable)
			return
		}
		defer open.Add(-1)
		ctx := r.Context()
		if f.deaf {
			ctx = t.Context()
		}
		req, err := http.NewRequestWithContext(ctx, r.Method, to+r.URL.RequestURI(), nil)
		if err != nil {
			panic(err)
		}
		req.Header = r.Header.Clone()
		if !f.host {
			req.Host = r.Host
		}
		req.Header.Set("Via", "1.1 faulty")
		if f.hop {
			req.Header.Del("Upgrade")
			req.Header.Del("Connection")
		}
		if f.drop != "" {
			req.Header.Del(f.drop)
		}
		res, err := transport.RoundTrip(req)
		if err != nil && f.wait > 0 {
			http.Error(w, "no answer", http.StatusGatewayTimeout)
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if !f.deaf {
			defer res.Body.Close()
		}
		for name, values := range res.Header {
			w.Header()[name] = values
		}
		write := func(b []byte) {
			w.WriteHeader(res.StatusCode)
			w.Write(b)
			http.NewResponseController(w).Flush()
		}
		hold := f.hold
		if backward, ok := res.Body.(io.Writer); ok {
			conn, client, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\n", res.Status)
			res.Header.Write(conn)
			io.WriteString(conn, "\r\n")
			hold, write = 0, func(b []byte) { conn.Write(b) }
			go func() {
				io.Copy(backward, client)
				res.Body.Close()
			}()
		}
		if f.kind != "" {
			w.Header().Set("Content-Type", f.kind)
		}
		chunks := make(chan []byte)
		go func() {
			defer close(chunks)
			for {
				b := make([]byte, 4<<10)
				n, err := res.Body.Read(b)
				select {
				case chunks <- b[:n]:
				case <-r.Context().Done():
					return
				}
				if err != nil {
					return
				}
			}
		}()
		var idle, total <-chan time.Time
		if f.total > 0 {
			total = time.After(f.total)
		}
		begun, heard := time.Now(), time.Now()
		cut := func(since time.Time) {
			select {
			case f.cut <- time.Since(since):
			default:
			}
			panic(http.ErrAbortHandler)
		}
		var held []byte
		flush := func() {
			write(held)
			held = held[:0]
		}
		for {
			if f.idle > 0 {
				idle = time.After(f.idle)
			}
			select {
			case chunk, more := <-chunks:
				heard = time.Now()
				if held = append(held, chunk...); !more || len(held) >= hold {
					flush()
				}
				if !more {
					return
				}
			case <-idle:
				cut(heard)
			case <-total:
				cut(begun)
			case <-r.Context().Done():
				return
			}
		}
	}))
	proxy.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(func() {
		proxy.Close()
		transport.CloseIdleConnections()
	})
	return proxy
}

// codes are those of the findings that are bad.
func codes(report *doctor.Report) (bad []string) {
	for _, f := range report.Findings {
		if f.Severity == doctor.Trouble || f.Severity == doctor.Failed {
			bad = append(bad, f.Code)
		}
	}
	slices.Sort(bad)
	return bad
}

// threeTimes tries at most so often until it is right: what a busy machine holds up looks as if
// a proxy did.
func threeTimes(right func() bool) {
	for range 3 {
		if right() {
			return
		}
	}
}

// saysTimes says whether a report says something, with one of some times, to half a second, where that has a #.
func saysTimes(report, says string, times <-chan time.Duration) bool {
	found := regexp.MustCompile(strings.Replace(regexp.QuoteMeta(says), "#", `(\d+\.\d)`, 1)).FindStringSubmatch(report)
	if len(found) < 2 {
		return found != nil
	}
	said, err := time.ParseDuration(found[1] + "s")
	for err == nil && len(times) > 0 {
		if (said - <-times).Abs() < time.Second/2 {
			return true
		}
	}
	return false
}

// A proxy that holds back, one that cuts the silent and one that cuts all are told
// apart, also where they are one; and a good one, or none, is not blamed.
func TestDoctor(t *testing.T) {
	t.Parallel()
	alone(t, "a probe is of one hub")
	const h, quick = 15 * time.Second, time.Second
	for name, tc := range map[string]struct {
		beat   time.Duration // the hub's heartbeat
		faults *faults       // nil: no proxy
		lasts  time.Duration
		want   []string
		says   string // # is how long one of the streams that were cut had been idle, or had lived
	}{
		"direct":                      {quick, nil, 2 * time.Second, nil, "HTTP/1.1 to the hub, with no sign of a proxy"},
		"a clean proxy":               {quick, &faults{}, 2 * time.Second, nil, "HTTP/1.1 to the proxy, HTTP/1.1 from there to the hub"},
		"held back":                   {quick, &faults{hold: 16 << 10}, 2 * time.Second, []string{"buffered"}, "in one burst"},
		"held back a little":          {quick, &faults{hold: 1 << 10}, 4 * time.Second, []string{"buffered"}, "bursts"},
		"idle 5 s":                    {h, &faults{idle: 5 * time.Second}, 7 * time.Second, []string{"idle-cut"}, "A silent stream is cut after # s"},
		"idle, but heard":             {quick, &faults{idle: 3 * time.Second}, 5 * time.Second, nil, "A silent stream is cut after # s"},
		"total 3 s":                   {h, &faults{total: 3 * time.Second}, 8 * time.Second, []string{"total-cut"}, "cut after # s"},
		"idle and total":              {h, &faults{idle: 2 * time.Second, total: 6 * time.Second}, 8 * time.Second, []string{"idle-cut", "total-cut"}, "A stream was cut after # s"},
		"held and total":              {h, &faults{hold: 16 << 10, total: 3 * time.Second}, 5 * time.Second, []string{"buffered", "total-cut"}, "Nothing came for # s"},
		"idle, as long as the watch":  {quick, &faults{idle: 3 * time.Second}, 3 * time.Second, nil, "A silent stream is cut after # s. The hub breaks"},
		"total, as long as the watch": {quick, &faults{total: 3 * time.Second}, 3 * time.Second, []string{"total-cut"}, "Streams are cut after # s"},
		"another Host":                {quick, &faults{host: true}, 2 * time.Second, []string{"host"}, "something on the way changes Host"},
		"deaf":                        {quick, &faults{deaf: true}, 4 * time.Second, []string{"leave-late"}, "had not noticed after"},
		"for four tabs":               {quick, &faults{few: 4}, 2 * time.Second, []string{"few-streams"}, "Of 6 streams at once, which a browser with HTTP/1.1 may open, only 4 came through; the others waited or were refused (status 503)"},
		"another type":                {quick, &faults{kind: "text/plain"}, 2 * time.Second, []string{"content-type"}, `came as "text/plain"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			url := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Heartbeat = tc.beat }).URL // each may have 12 probes
			cuts := make(chan time.Duration, 100)
			if tc.faults != nil {
				tc.faults.cut = cuts
				url = newProxy(t, url, *tc.faults).URL
			}
			var start time.Time
			var report *doctor.Report
			threeTimes(func() bool {
				var err error
				start = time.Now()
				report, err = doctor.Run(t.Context(), doctor.Config{URL: url, For: tc.lasts})
				is.NoErr(err)
				return slices.Contains(tc.want, "buffered") || !slices.Contains(codes(report), "buffered")
			})
			if !slices.Equal(codes(report), tc.want) || !saysTimes(report.String(), tc.says, cuts) {
				t.Errorf("%v instead of %v, or no %q:\n%s", codes(report), tc.want, tc.says, report)
			}
			is.Equal(report.Verdict == doctor.Fine, len(tc.want) == 0)
			is.True(time.Since(start) < tc.lasts+20*time.Second) // the other doors are tried, too, each with a grace
			is.Equal(report.Hub.Protocol, "HTTP/1.1")
		})
	}
	t.Run("all at one moment", func(t *testing.T) {
		t.Parallel()
		is := is.New(t)
		proxy := newProxy(t, newTestHub(t).URL, faults{})
		var report *doctor.Report
		threeTimes(func() bool {
			var once sync.Once
			var err error
			report, err = doctor.Run(t.Context(), doctor.Config{URL: proxy.URL, For: 10 * time.Second, Progress: func(p doctor.Progress) {
				if p.Ticks >= 10 {
					once.Do(proxy.CloseClientConnections)
				}
			}})
			is.NoErr(err)
			return !slices.Contains(codes(report), "buffered")
		})
		is.Equal(codes(report), []string{"cut"})
	})
}

func TestDoctorOverHTTP2(t *testing.T) {
	t.Parallel()
	alone(t, "a probe is of one hub")
	is := is.New(t)
	cert, key := hubtest.WriteCertificate(t, t.TempDir(), "first")
	ctx, stop := context.WithCancel(t.Context())
	listening, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"REALTIME_TLS_CERT=" + cert, "REALTIME_TLS_KEY=" + key, "REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_HEARTBEAT=1s"}, io.Discard, func(a net.Addr) { listening <- a })
	}()
	url := "https://" + (<-listening).String()
	text, err := os.ReadFile(cert)
	is.NoErr(err)
	roots := x509.NewCertPool()
	is.True(roots.AppendCertsFromPEM(text))
	var report *doctor.Report
	threeTimes(func() bool {
		report, err = doctor.Run(t.Context(), doctor.Config{URL: url, For: 2 * time.Second, TLS: &tls.Config{RootCAs: roots}})
		is.NoErr(err)
		return !slices.Contains(codes(report), "buffered")
	})
	is.Equal(codes(report), nil)
	is.Equal(report.Ticking.Protocol, "HTTP/2")
	is.Equal(report.Hub.TLS, true)
	is.True(strings.Contains(report.String(), "HTTP/2 to the hub, with no sign of a proxy"))
	is.True(!strings.Contains(report.String(), "http1-only"))
	report, err = doctor.Run(t.Context(), doctor.Config{URL: url, For: time.Second})
	is.NoErr(err)
	is.Equal(codes(report), []string{"unreachable"}) // nobody knows the certificate
	is.True(strings.Contains(report.String(), "certificate"))
	stop()
	is.NoErr(<-done)
}

// The command's exit code says what it found, and what it prints never holds the token.
func TestDoctorCommand(t *testing.T) {
	t.Parallel()
	alone(t, "a probe is of one hub")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=canary-service-key-0001"}}), access.RatesConfig{}, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Heartbeat = time.Second })
	held := newProxy(t, h.URL, faults{hold: 16 << 10}).URL
	stripped := newProxy(t, h.URL, faults{drop: "Authorization"}).URL
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved/v1/doctor" {
			http.Redirect(w, r, "https://login.example.com/start?state=canary", http.StatusFound)
			return
		}
		io.WriteString(w, "<html><title>Welcome</title>")
	}))
	t.Cleanup(page.Close)
	people := 0
	token := func() string { // of somebody else each time, elsewhere: a tenant has probes for four doctors
		people++
		return strings.TrimPrefix(bearer(t, "tenant", fmt.Sprint("tenant-", people)), "Bearer ")
	}
	for name, tc := range map[string]struct {
		args []string
		env  string
		code int
		says string
	}{
		"fine, with a token":           {[]string{"-for", "2s", "-token", token(), h.URL}, "", 0, "Streams work."},
		"fine, with the environment":   {[]string{"-for", "2s", h.URL + "/v1/stream?access_token=canary"}, token(), 0, "Streams work."},
		"fine, with a key, for a tool": {[]string{"-for", "2s", "-json", h.URL}, "canary-service-key-0001", 0, `"verdict": "fine"`},
		"fine, flags behind":           {[]string{h.URL, "-for", "2s", "-token", token()}, "", 0, "Streams work."},
		"flags on both sides":          {[]string{"-json", h.URL, "-for", "2s"}, token(), 0, `"verdict": "fine"`},
		"two URLs":                     {[]string{h.URL, "-for", "2s", h.URL}, token(), 2, "one URL, not 2\n\nUsage:"},
		"trouble":                      {[]string{"-for", "2s", held}, token(), 1, "buffered"},
		"no token":                     {[]string{h.URL}, "", 2, "CredentialRequired"},
		"a bad token":                  {[]string{h.URL}, "canary", 2, "InvalidCredential"},
		"a token taken away":           {[]string{stripped}, token(), 2, "CredentialRequired"},
		"another path":                 {[]string{h.URL + "/elsewhere"}, token(), 2, "not-found"},
		"a page":                       {[]string{page.URL}, token(), 2, "not-a-stream"},
		"a login page":                 {[]string{page.URL + "/moved"}, token(), 2, "to https://login.example.com/start."},
		"nobody there":                 {[]string{"http://127.0.0.1:1"}, token(), 2, "unreachable"},
		"too long":                     {[]string{"-for", "31m", h.URL}, token(), 2, "for: "},
		"no URL":                       {nil, token(), 2, "one URL, not 0\n\nUsage:"},
		"not a URL":                    {[]string{"ftp://canary"}, token(), 2, "URL: "},
		"help":                         {[]string{"-h"}, token(), 0, "when not all could be examined"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			var code int
			var printed string
			threeTimes(func() bool {
				var out, errs bytes.Buffer
				code = doctor.Command(t.Context(), tc.args, func(name string) string {
					is.Equal(name, "REALTIME_TOKEN")
					return tc.env
				}, &out, &errs)
				printed = out.String() + errs.String()
				return tc.code != 0 || !strings.Contains(printed, "buffered")
			})
			if code != tc.code || !strings.Contains(printed, tc.says) {
				t.Errorf("exit code %d instead of %d, or no %q:\n%s", code, tc.code, tc.says, printed)
			}
			is.True(!strings.Contains(printed, "eyJ")) // as tokens begin
			is.True(!strings.Contains(printed, "canary"))
		})
	}
}

// Which doors a proxy lets through is told apart, why the others do not work, and which one to use.
func TestDoctorOfDoors(t *testing.T) {
	t.Parallel()
	alone(t, "a probe is of one hub")
	is := is.New(t)
	for name, tc := range map[string]struct {
		faults faults
		change func(*doctor.Config)
		want   string // each door's troubles
		use    doctor.Door
		says   string
	}{
		"all":                  {faults{}, nil, "", doctor.SSE, "WebSocket: it opens after"},
		"no Upgrade":           {faults{hop: true}, nil, "websocket:no-upgrade", doctor.SSE, "the hub was reached, but not asked for one."},
		"no Upgrade, needed":   {faults{hop: true}, func(c *doctor.Config) { c.Door = doctor.WebSocket }, "websocket:no-upgrade", doctor.SSE, "TROUBLE  WebSocket"},
		"no Upgrade, SignalR":  {faults{hop: true}, func(c *doctor.Config) { c.Door = doctor.SignalR }, "websocket:no-upgrade", doctor.SSE, "take Server-Sent Events or polls instead"},
		"held back":            {faults{hold: 16 << 10}, nil, "sse:buffered", doctor.WebSocket, "Use /v1/socket: WebSocket."},
		"held, and no Upgrade": {faults{hold: 16 << 10, hop: true}, nil, "signalr:no-upgrade sse:buffered websocket:no-upgrade", doctor.Poll, "Use /v1/poll: long polling."},
		"idle 1 s":             {faults{idle: time.Second}, nil, "sse:idle-cut websocket:idle-cut", doctor.Poll, "WebSocket: A silent stream is cut after"},
		"nothing for 1 s":      {faults{idle: time.Second, wait: time.Second}, nil, "poll:idle-cut sse:idle-cut websocket:idle-cut", "", "No door works as things are."},
		"total 1 s":            {faults{total: time.Second}, nil, "sse:total-cut websocket:total-cut", doctor.Poll, "WebSocket: Streams are cut after"},
		"a foreign page":       {faults{}, func(c *doctor.Config) { c.Origin = "https://app.example.com" }, "websocket:origin", doctor.SSE, "pages of https://app.example.com get none (the hub says CrossSite"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			cfg := doctor.Config{URL: newProxy(t, newTestHub(t).URL, tc.faults).URL, For: 2 * time.Second, Door: doctor.SSE}
			if tc.change != nil {
				tc.change(&cfg)
			}
			var troubles string
			var report *doctor.Report
			threeTimes(func() bool {
				var err error
				report, err = doctor.Run(t.Context(), cfg)
				is.NoErr(err)
				troubles = troublesOf(report)
				return troubles == tc.want
			})
			if troubles != tc.want || report.Use != tc.use || !strings.Contains(report.String(), tc.says) {
				t.Errorf("%q and use %q, or no %q:\n%s", troubles, report.Use, tc.says, report)
			}
			for _, d := range report.Doors {
				is.True(d.Door != cfg.Door || d.Verdict == report.Verdict)
			}
			for _, f := range report.Findings {
				is.True(f.Door == cfg.Door || f.Severity == doctor.Note || f.Severity == doctor.Fine) // what nobody uses is no trouble
			}
		})
	}
	_, err := doctor.Run(t.Context(), doctor.Config{URL: "http://127.0.0.1:1", For: time.Second, Door: "window"})
	is.True(err != nil && strings.HasPrefix(err.Error(), "door: "))
}

// troublesOf are those of each door, in order.
func troublesOf(report *doctor.Report) string {
	var all []string
	for _, d := range report.Doors {
		for _, code := range d.Why {
			all = append(all, string(d.Door)+":"+code)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Any credential examines any door, and nobody comes online for it.
func TestDoctorIsNoClient(t *testing.T) {
	t.Parallel()
	alone(t, "a probe is of one hub")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001"}}), access.RatesConfig{})
	me := strings.TrimPrefix(bearer(t), "Bearer ")
	for _, token := range []string{"service-key-0001", me} {
		var report *doctor.Report
		threeTimes(func() bool {
			var err error
			report, err = doctor.Run(t.Context(), doctor.Config{URL: h.URL, For: time.Second, Token: token, Progress: func(doctor.Progress) {
				is.Equal(len(h.streams.Connections("acme", nil)), 0)
			}})
			is.NoErr(err)
			return !strings.Contains(troublesOf(report), ":buffered")
		})
		is.Equal(len(report.Doors), 4)
		for _, d := range report.Doors {
			is.Equal(d.Why, nil)
		}
	}
}
