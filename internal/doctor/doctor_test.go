package doctor

import (
	"bytes"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// goodHeader is the hub's.
func goodHeader() http.Header {
	return http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-cache, no-store, no-transform"}, "X-Accel-Buffering": {"no"}}
}

// good is what a hub shows without anything in between, over TLS and for 100 s: a
// ticking stream of a tick a second, and a silent one that began 3 s later.
func good() observed {
	start := time.Now()
	hello := func() *Hello { return &Hello{Protocol: "HTTP/2.0", TLS: true, HeartbeatMS: 15_000} }
	answer := func() trial {
		return trial{
			status: 200, proto: "HTTP/2.0", header: goodHeader(), hello: hello(), done: true, asked: start, lived: 100 * time.Second,
			firstByte: 5 * time.Millisecond, connected: 20 * time.Millisecond, arrivals: []arrival{{0, 5 * time.Millisecond}},
		}
	}
	o := observed{every: time.Second, lasts: 100 * time.Second, stagger: 3 * time.Second, secure: true, brief: answer(), ticking: answer(), silent: answer()}
	old := answer()
	old.proto = "HTTP/1.1"
	o.http1 = &old
	o.ticking.arrivals = ticksAt(99, func(sent time.Duration) time.Duration { return sent })
	o.silent.asked = start.Add(o.stagger)
	return o
}

// ticksAt are a hello and n ticks, one a second, that come when a function says.
func ticksAt(n int, came func(time.Duration) time.Duration) (list []arrival) {
	for i := range n + 1 {
		sent := time.Duration(i) * time.Second
		list = append(list, arrival{sent, came(sent) + 5*time.Millisecond})
	}
	return list
}

func cutAfter(t *trial, lived time.Duration) {
	t.done, t.lived = false, lived
	t.arrivals = slices.DeleteFunc(t.arrivals, func(a arrival) bool { return a.came >= lived })
}

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*observed)
		want   []string // codes of what is not fine, the worst first; of what is no trouble with its severity
		says   string
	}{
		"nothing": {func(*observed) {}, nil, "HTTP/2 to the hub, with no sign of a proxy"},
		"a limit for all": {func(o *observed) {
			cutAfter(&o.ticking, time.Minute)
			cutAfter(&o.silent, time.Minute+100*time.Millisecond)
		},
			[]string{"total-cut"}, "after 60 s, used or not"},
		"a limit for all, looked at now and then": {func(o *observed) { cutAfter(&o.ticking, time.Minute); cutAfter(&o.silent, time.Minute+2*time.Second) },
			[]string{"total-cut"}, "after 60 s"},
		"a limit that a write meets": {func(o *observed) { cutAfter(&o.ticking, time.Minute); cutAfter(&o.silent, 100*time.Second) },
			[]string{"total-cut"}, "although events were flowing"},
		"one moment": {func(o *observed) { cutAfter(&o.ticking, time.Minute); cutAfter(&o.silent, time.Minute-o.stagger) },
			[]string{"cut"}, "at the same moment"},
		"both limits": {func(o *observed) { cutAfter(&o.ticking, time.Minute); cutAfter(&o.silent, 10*time.Second) },
			[]string{"total-cut", "idle-cut"}, "after 10 s"},
		"a silence shorter than the heartbeat": {func(o *observed) { cutAfter(&o.silent, 10*time.Second) }, []string{"idle-cut"}, "which is too late"},
		"a silence as long as the heartbeat":   {func(o *observed) { cutAfter(&o.silent, 15*time.Second) }, []string{"idle-cut"}, "which is too late"},
		"a longer one":                         {func(o *observed) { cutAfter(&o.silent, time.Minute) }, []string{"note idle-cut"}, "so streams live"},
		"no heartbeat":                         {func(o *observed) { o.ticking.hello.HeartbeatMS = 0; cutAfter(&o.silent, time.Minute) }, []string{"idle-cut"}, "REALTIME_HEARTBEAT=0"},
		"no heartbeat, no cut":                 {func(o *observed) { o.ticking.hello.HeartbeatMS = 0 }, []string{"note unproven"}, "REALTIME_HEARTBEAT=0"},
		"a long heartbeat":                     {func(o *observed) { o.ticking.hello.HeartbeatMS = 200_000 }, []string{"note unproven"}, "-for 6m40s"},
		"forgotten":                            {func(o *observed) { o.silent.done, o.silent.expired = false, true }, []string{"vanished"}, "silence of 100 s"},
		"forgotten, with a reset":              {func(o *observed) { cutAfter(&o.silent, 100*time.Second) }, []string{"vanished"}, "silence of 100 s"},
		"held to the end": {func(o *observed) {
			o.ticking.arrivals = ticksAt(99, func(time.Duration) time.Duration { return 100 * time.Second })
		}, []string{"buffered"}, "99 came in one burst, held back for up to 99 s"},
		"held by tens": {func(o *observed) {
			o.ticking.arrivals = ticksAt(99, func(sent time.Duration) time.Duration { return (sent + 9*time.Second).Truncate(10 * time.Second) })
		}, []string{"buffered"}, "11 bursts, held back for up to 9.0 s"},
		"held for ever": {func(o *observed) {
			o.ticking = trial{expired: true, lived: 110 * time.Second, asked: o.ticking.asked}
		}, []string{"buffered"}, "Nothing came for 110 s"},
		"one moment of standstill": {func(o *observed) {
			o.ticking.arrivals = ticksAt(99, func(sent time.Duration) time.Duration {
				if sent > 20*time.Second && sent < 24*time.Second {
					return 24 * time.Second
				}
				return sent
			})
		}, []string{"note hiccup"}, "stood still for 3.0 s"},
		"a slow but even way": {func(o *observed) {
			o.ticking.arrivals = ticksAt(99, func(sent time.Duration) time.Duration { return sent + 700*time.Millisecond })
		}, nil, "none more than 1 ms late"},
		"a standstill": {func(o *observed) { cutAfter(&o.ticking, 30*time.Second); o.ticking.expired = true }, []string{"stalled"}, "after 29 s"},
		"compressed":   {func(o *observed) { o.ticking.gzip = true }, []string{"note compressed"}, "(gzip)"},
		"compressed and held": {func(o *observed) {
			o.ticking.gzip = true
			o.ticking.arrivals = ticksAt(99, func(time.Duration) time.Duration { return 100 * time.Second })
		}, []string{"buffered", "compressed"}, "A compressor gathers"},
		"another type":   {func(o *observed) { o.ticking.header.Set("Content-Type", "text/plain") }, []string{"content-type"}, `"text/plain"`},
		"a charset":      {func(o *observed) { o.ticking.header.Set("Content-Type", "text/event-stream; charset=utf-8") }, nil, ""},
		"cacheable":      {func(o *observed) { o.ticking.header.Set("Cache-Control", "max-age=60") }, []string{"note cache-control"}, "max-age=60"},
		"cached":         {func(o *observed) { o.ticking.header.Set("Age", "7") }, []string{"cached"}, "7 s old"},
		"only HTTP/1.1":  {func(o *observed) { o.ticking.proto, o.ticking.hello.Protocol = "HTTP/1.1", "HTTP/1.1" }, []string{"note http1-only"}, "HTTP/2 is not offered"},
		"HTTP/2 fails":   {func(o *observed) { o.brief = trial{status: 502} }, []string{"http2-failed"}, "status 502"},
		"HTTP/1.1 fails": {func(o *observed) { o.http1.status = 426 }, []string{"note http1-failed"}, "status 426"},
		"a slow start":   {func(o *observed) { o.brief.arrivals[0].came = 2 * time.Second }, []string{"note slow-first"}, "took 2.0 s"},
		"drained":        {func(o *observed) { cutAfter(&o.ticking, time.Minute); o.ticking.closing = "drain" }, []string{"failed hub-ended"}, `"drain"`},
		"refused later":  {func(o *observed) { o.silent = trial{status: 504, lived: time.Minute} }, []string{"refused"}, "answered 504 after 60 s"},
		"a proxy":        {func(o *observed) { o.ticking.hello.Protocol = "HTTP/1.1" }, nil, "HTTP/2 to the proxy, HTTP/1.1 from there to the hub."},
		"known proxies": {func(o *observed) {
			o.ticking.header.Set("Server", "cloudflare")
			o.ticking.hello.Headers = map[string][]string{"X-Amzn-Trace-Id": {"Root=1"}}
		}, nil, "On the way: Cloudflare, AWS ALB."},
	} {
		t.Run(name, func(t *testing.T) {
			o := good()
			tc.change(&o)
			found := judge(o)
			var got []string
			var says strings.Builder
			for _, f := range found {
				says.WriteString(f.Says + "\n")
				switch f.Severity {
				case Trouble:
					got = append(got, f.Code)
				case Note, Failed:
					got = append(got, string(f.Severity)+" "+f.Code)
				}
			}
			if !slices.Equal(got, tc.want) || !strings.Contains(says.String(), tc.says) {
				t.Errorf("%q instead of %q, or no %q in:\n%s", got, tc.want, tc.says, &says)
			}
		})
	}
}

// The proxy that showed itself comes first, and each trouble has a cure.
func TestAdvice(t *testing.T) {
	is := is.New(t)
	o := good()
	cutAfter(&o.silent, 10*time.Second)
	o.ticking.header.Set("Server", "awselb/2.0")
	first := judge(o)[0]
	is.Equal(first.Code, "idle-cut")
	is.Equal(first.Advice[0].Proxy, "AWS ALB")
	is.True(first.Advice[0].Seen && !first.Advice[1].Seen)
	for _, code := range []string{"buffered", "idle-cut", "vanished", "total-cut", "compressed", "content-type", "cache-control", "cached", "http1-only", "http2-failed"} {
		for _, proxy := range []string{nginx, caddy, envoy, cloudflare} {
			is.True(slices.ContainsFunc(cures(code), func(a Advice) bool { return a.Proxy == proxy }))
		}
	}
	o.ticking.header.Del("Server")
	o.ticking.header.Del("X-Accel-Buffering")
	is.Equal(o.proxies(), []string{"nginx"}) // which took it
}

// The page for users has every cure, word for word, and every code.
func TestPage(t *testing.T) {
	is := is.New(t)
	b, err := os.ReadFile("../../docs/doctor.md")
	is.NoErr(err)
	page := string(b)
	source := ""
	for _, name := range []string{"judge.go", "failure.go"} {
		b, err := os.ReadFile(name)
		is.NoErr(err)
		source += string(b)
	}
	found := regexp.MustCompile(`(?:add\(|return )"([a-z0-9-]+)", `).FindAllStringSubmatch(source, -1)
	lines := map[string]bool{}
	for _, match := range found {
		lines["`"+match[1]+"`"] = true
		for _, a := range cures(match[1]) {
			lines["\n- "+a.Proxy+": "+a.Change+"\n"] = true
		}
	}
	is.True(len(lines) > 70)
	for line := range lines {
		if !strings.Contains(page, line) {
			t.Errorf("the page lacks %q", line)
		}
	}
}

func TestFailure(t *testing.T) {
	problem := http.Header{"Content-Type": {"application/problem+json"}}
	html := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	for name, tc := range map[string]struct {
		trial trial
		code  string
		says  string
	}{
		"login":          {trial{status: 302, header: http.Header{"Location": {"https://u:p@login/start?state=secret#x"}}}, "redirected", "to https://login/start."},
		"no token":       {trial{status: 401, header: problem, body: `{"code":"CredentialRequired","detail":"a token"}`}, "unauthorized", `(the hub says CredentialRequired, "a token")`},
		"a firewall":     {trial{status: 403, header: html}, "forbidden", "a firewall rule"},
		"another path":   {trial{status: 404, header: html}, "not-found", "cut off a prefix"},
		"busy":           {trial{status: 503, header: problem, body: `{"code":"ProbesBusy","detail":"x"}`}, "busy", "ProbesBusy"},
		"no hub":         {trial{status: 503, header: html, body: `{"code":"x"}`}, "bad-gateway", "cannot reach the hub"},
		"Cloudflare's":   {trial{status: 524}, "bad-gateway", "524"},
		"teapot":         {trial{status: 418}, "refused", "418"},
		"a page":         {trial{status: 200, header: html}, "not-a-stream", "a page"},
		"JSON":           {trial{status: 200, header: http.Header{"Content-Type": {"application/json"}}}, "not-a-stream", `"application/json"`},
		"another stream": {trial{status: 200, header: goodHeader()}, "not-a-stream", "stand-in"},
		"a head alone":   {trial{status: 200, header: goodHeader(), expired: true}, "no-answer", "none of its events"},
		"silence":        {trial{expired: true, lived: 11 * time.Second}, "no-answer", "within 11 s"},
		"an end":         {trial{}, "unreachable", "the connection ended"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			finding, failed := (&observed{brief: tc.trial}).failure()
			is.True(failed)
			is.Equal(finding.Code, tc.code)
			if !strings.Contains(finding.Says, tc.says) || strings.Contains(finding.Says, "secret") {
				t.Errorf("no %q in %q", tc.says, finding.Says)
			}
		})
	}
}

func TestProgressLine(t *testing.T) {
	is := is.New(t)
	var b bytes.Buffer
	plain := newLine(&b)
	for passed := time.Duration(0); passed <= 11*time.Second; passed += 250 * time.Millisecond {
		plain.show(Progress{Passed: passed, Of: 11 * time.Second, Silent: passed < 8*time.Second})
	}
	plain.clear()
	is.Equal(b.String(), "5 of 11 s: 0 events, the last 0.0 s ago; the silent stream is open\n10 of 11 s: 0 events, the last 0.0 s ago; the silent stream is over\n")
	b.Reset()
	terminal := &line{w: &b, terminal: true}
	terminal.show(Progress{Ticks: 100, Of: time.Second})
	terminal.show(Progress{Ticks: 1, Of: time.Second})
	terminal.clear()
	lines := strings.Split(b.String(), "\r")
	is.Equal(len(lines), 5)
	is.Equal(len(lines[1]), len(lines[2])) // nothing of the longer one is left
	is.Equal(lines[4], "")
}

// Each address that a user may know leads to the same probe.
func TestAddress(t *testing.T) {
	for given, want := range map[string]string{
		"http://hub": "http://hub/v1/doctor", "https://hub:8443/": "https://hub:8443/v1/doctor", "hub:8080": "http://hub:8080/v1/doctor",
		"https://u:p@hub/rt/v1/stream?access_token=x#y": "https://hub/rt/v1/doctor", "http://hub/v1/": "http://hub/v1/doctor", "http://hub/rt": "http://hub/rt/v1/doctor",
	} {
		is := is.New(t)
		u, err := Address(given)
		is.NoErr(err)
		is.Equal(u.String(), want)
	}
	for _, bad := range []string{"", "ftp://hub", "http://", "http://%zz"} {
		is := is.New(t)
		_, err := Address(bad)
		is.True(err != nil)
		_, isURL := err.(*url.Error)
		is.True(!isURL) // it would repeat the address
	}
}
