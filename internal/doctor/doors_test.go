package doctor

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// goodBesides is what a hub's other doors show without anything in between.
func goodBesides() besides {
	o := good()
	return besides{
		origin: "https://rt.example.com", socket: o, wait: usualWait, poll: trial{status: 204, lived: usualWait},
		negotiated: trial{status: 204}, signalr: trial{status: 101, hello: o.brief.hello},
	}
}

// said are the findings' codes, with their doors, and all that they say.
func said(found []Finding) (codes []string, says string) {
	for _, f := range found {
		codes = append(codes, string(f.Severity)+" "+f.name())
		says += f.Says + "\n"
	}
	return codes, says
}

func TestJudgeDoors(t *testing.T) {
	problem := http.Header{"Content-Type": {"application/problem+json"}}
	answer := func(status int, code string) trial {
		return trial{status: status, header: problem, body: `{"code":"` + code + `","detail":"x"}`}
	}
	for name, tc := range map[string]struct {
		change func(*besides, *observed)
		want   []string // beside what works
		says   string
	}{
		"nothing":               {func(*besides, *observed) {}, nil, "lived its whole 100 s, with events and silent"},
		"Upgrade taken away":    {func(b *besides, _ *observed) { b.socket.brief = answer(426, "UpgradeRequired") }, []string{"trouble websocket: no-upgrade"}, "the hub was reached, but not asked for one."},
		"half of it taken away": {func(b *besides, _ *observed) { b.socket.brief = answer(400, "InvalidHandshake") }, []string{"trouble websocket: no-upgrade"}, "takes the header Upgrade away"},
		"a proxy's refusal":     {func(b *besides, _ *observed) { b.socket.brief = trial{status: 501} }, []string{"trouble websocket: no-upgrade"}, "is answered 501"},
		"no answer":             {func(b *besides, _ *observed) { b.socket.brief = trial{err: errors.New("reset")} }, []string{"trouble websocket: no-upgrade"}, "there is no answer to the request for one: reset"},
		"another's answer":      {func(b *besides, _ *observed) { b.socket.brief = trial{status: 101, err: errAccept} }, []string{"trouble websocket: no-upgrade"}, "answered 101"},
		"HTTP/2 alone": {func(b *besides, o *observed) {
			b.socket.brief = trial{err: errors.New("no protocol")}
			o.http1 = &trial{err: errors.New("no protocol")}
		}, []string{"trouble websocket: no-upgrade"}, "it needs HTTP/1.1, which nobody answers here"},
		"opened, and held":  {func(b *besides, _ *observed) { b.socket.brief = trial{status: 101, lived: 10 * time.Second} }, []string{"trouble websocket: buffered"}, "nothing came for 10 s"},
		"a foreign page":    {func(b *besides, _ *observed) { b.socket.brief = answer(403, "CrossSite") }, []string{"trouble websocket: origin"}, "pages of https://rt.example.com get none"},
		"not routed":        {func(b *besides, _ *observed) { b.socket.brief = trial{status: 404} }, []string{"trouble websocket: not-found"}, "elsewhere"},
		"busy":              {func(b *besides, _ *observed) { b.socket.brief = answer(503, "ProbesBusy") }, []string{"failed websocket: busy"}, "takes no probe now"},
		"silent, cut":       {func(b *besides, _ *observed) { cutAfter(&b.socket.silent, 10*time.Second) }, []string{"trouble websocket: idle-cut"}, "WebSocket: A silent stream is cut after 10 s"},
		"silent, cut later": {func(b *besides, _ *observed) { cutAfter(&b.socket.silent, time.Minute) }, []string{"note websocket: idle-cut"}, "so streams live"},
		"all cut": {func(b *besides, _ *observed) {
			cutAfter(&b.socket.silent, time.Minute)
			cutAfter(&b.socket.ticking, time.Minute)
		}, []string{"trouble websocket: total-cut"}, "used or not"},
		"a poll cut":          {func(b *besides, _ *observed) { b.poll = trial{status: 504, lived: 15 * time.Second} }, []string{"trouble poll: idle-cut"}, "is cut after 15 s (status 504)"},
		"a poll, no answer":   {func(b *besides, _ *observed) { b.poll = trial{expired: true, lived: 35 * time.Second} }, []string{"trouble poll: vanished"}, "within 35 s"},
		"a poll not routed":   {func(b *besides, _ *observed) { b.poll = trial{status: 404} }, []string{"trouble poll: not-found"}, "404"},
		"a poll refused":      {func(b *besides, _ *observed) { b.poll = trial{status: 418} }, []string{"trouble poll: refused"}, "418"},
		"a poll, busy":        {func(b *besides, _ *observed) { b.poll = answer(503, "ProbesBusy") }, []string{"failed poll: busy"}, "no probe now"},
		"a poll, drained":     {func(b *besides, _ *observed) { b.poll.lived = time.Second }, []string{"failed poll: hub-ended"}, "drains"},
		"a poll, expired":     {func(b *besides, _ *observed) { b.poll = answer(401, "CredentialExpired") }, []string{"failed poll: hub-ended"}, "the token expired"},
		"a short watch":       {func(b *besides, _ *observed) { b.wait, b.poll.lived = time.Second, time.Second }, []string{"note poll: unproven"}, "-for 25s"},
		"SignalR, no Upgrade": {func(b *besides, _ *observed) { b.signalr = trial{status: 426} }, []string{"note signalr: no-upgrade"}, "or polls instead"},
		"SignalR, and streams held": {func(b *besides, o *observed) {
			b.signalr = trial{status: 426}
			o.ticking.arrivals = ticksAt(99, func(time.Duration) time.Duration { return 100 * time.Second })
		}, []string{"trouble signalr: no-upgrade"}, "Have them take polls"},
		"SignalR, not routed": {func(b *besides, _ *observed) { b.negotiated.status = 404 }, []string{"trouble signalr: not-found"}, "negotiate is answered 404"},
		"SignalR, no POST":    {func(b *besides, _ *observed) { b.negotiated.status = 405 }, []string{"trouble signalr: refused"}, "status 405"},
	} {
		t.Run(name, func(t *testing.T) {
			b, o := goodBesides(), good()
			tc.change(&b, &o)
			found := b.judge(&o)
			got, says := said(found)
			got = slices.DeleteFunc(got, func(code string) bool { return strings.HasPrefix(code, "fine ") })
			if !slices.Equal(got, tc.want) || !strings.Contains(says, tc.says) {
				t.Errorf("%q instead of %q, or no %q in:\n%s", got, tc.want, tc.says, says)
			}
			is.New(t).Equal(len(found) >= 3, true) // each door has a word
		})
	}
}

// The proxy that showed itself comes first, and each trouble of a door has a cure.
func TestCuresOfDoors(t *testing.T) {
	is := is.New(t)
	b, o := goodBesides(), good()
	b.socket.brief = trial{status: 426, header: http.Header{}}
	o.ticking.header.Set("Server", "lighttpd/1.4.69")
	advice := b.judge(&o)[0].Advice[0]
	is.Equal(advice, Advice{lighttpd, true, "`proxy.header = ( \"upgrade\" => \"enable\" )`."})
	for _, door := range []Door{WebSocket, Poll} {
		for _, proxy := range []string{nginx, caddy, haproxy, traefik, envoy, alb, cloudflare, apache} {
			is.True(slices.ContainsFunc(doorCures(door, "idle-cut"), func(a Advice) bool { return a.Proxy == proxy }))
		}
	}
}

// An upgrade that is answered for somebody else is none.
func TestAnothersUpgrade(t *testing.T) {
	is := is.New(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, _ := http.NewResponseController(w).Hijack()
		conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"))
		conn.Close()
	}))
	defer server.Close()
	u, _ := Address(server.URL)
	got := probe{url: u, origin: server.URL, lasts: time.Minute}.run(t.Context())
	is.Equal(got.status, 101)
	is.Equal(got.err, errAccept)
}

// A stream that brings its events is preferred to polls, however late a departure is noticed.
func TestWhichDoorToUse(t *testing.T) {
	for troubles, want := range map[string]Door{
		"":                                    SSE,
		"sse:leave-late":                      WebSocket,
		"sse:leave-late websocket:no-upgrade": SSE,
		"sse:buffered websocket:no-upgrade":   Poll,
		"sse:buffered":                        WebSocket,
		"sse:buffered websocket:total-cut poll:idle-cut": "",
		"sse:leave-late sse:idle-cut websocket:origin":   Poll,
	} {
		t.Run(troubles, func(t *testing.T) {
			report := Report{Findings: []Finding{{Door: SignalR, Code: "works", Severity: Fine}}}
			for _, text := range strings.Fields(troubles) {
				door, code, _ := strings.Cut(text, ":")
				report.Findings = append(report.Findings, Finding{Door: Door(door), Code: code, Severity: Trouble})
			}
			report.settle(SSE)
			is.New(t).Equal(report.Use, want)
		})
	}
}
