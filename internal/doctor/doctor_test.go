package doctor

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
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
	o.host, o.silent.hello.ID = "", "SILENT"
	for _, t := range []*trial{&o.brief, &o.ticking, &o.silent, o.http1} {
		t.streams = 250
	}
	return o
}

// leaves is that a client closed a stream 2 s after the ticking one was there, and the
// hub noticed so much later; 0: it did not.
func leaves(o *observed, noticed time.Duration) {
	o.left = &trial{hello: &Hello{ID: "LEAVER", Tells: true}, asked: o.ticking.asked.Add(time.Second), lived: time.Second + 5*time.Millisecond}
	if noticed > 0 {
		o.ticking.gone = append(o.ticking.gone, Gone{ID: "OTHER", How: Left, ElapsedMS: 7}, Gone{ID: "LEAVER", How: Left, ElapsedMS: (2*time.Second + noticed).Milliseconds()})
	}
}

// throughProxy makes that somebody showed himself on the way.
func throughProxy(o *observed) {
	o.ticking.hello.Headers = map[string][]string{"Via": {"1.1 somebody"}}
}

// crowded are streams that began so much later than the first, by the hub's clock; one
// that is negative was refused.
func crowded(o *observed, began ...time.Duration) {
	for _, later := range began {
		t := trial{status: 503, proto: "HTTP/1.1"}
		if later >= 0 {
			t = trial{status: 200, hello: &Hello{At: o.ticking.asked.Add(later).UTC().Format("2006-01-02T15:04:05.000Z")}}
		}
		o.tabs = append(o.tabs, t)
	}
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
		"by the hub": {func(o *observed) {
			cutAfter(&o.silent, 12*time.Second)
			o.ticking.gone = []Gone{{ID: "SILENT", How: Vanished, ElapsedMS: 15_000}}
		}, []string{"hub-cut"}, "No proxy's limit did it"},
		"by a limit of the hub's": {func(o *observed) {
			cutAfter(&o.silent, 12*time.Second)
			o.ticking.gone = []Gone{{ID: "SILENT", How: GivenUp, ElapsedMS: 15_000}}
		}, []string{"hub-cut"}, "which its log names"},
		"on the hub's side alone": {func(o *observed) {
			o.silent.done, o.silent.expired = false, true
			o.ticking.gone = []Gone{{ID: "SILENT", How: Left, ElapsedMS: 33_000}}
		}, []string{"note idle-cut"}, "cut after 30 s"},
		"both sides at once": {func(o *observed) {
			cutAfter(&o.silent, 10*time.Second)
			o.ticking.gone = []Gone{{ID: "SILENT", How: Left, ElapsedMS: 13_000}}
		}, []string{"idle-cut"}, "cut after 10 s"},
		"cut, and nobody in between": {func(o *observed) { cutAfter(&o.silent, 10*time.Second) }, []string{"idle-cut"}, "it may be the hub."},
		"one event late": {func(o *observed) {
			o.silent.arrivals = []arrival{{0, 99 * time.Second}}
		}, []string{"buffered"}, "keeps an event until more comes"},
		"one event late, and cut":         {func(o *observed) { cutAfter(&o.silent, 60*time.Second); o.silent.arrivals = nil }, []string{"buffered", "note idle-cut"}, "keeps an event"},
		"left":                            {func(o *observed) { leaves(o, 8*time.Millisecond) }, nil, "The hub noticed after 8 ms"},
		"left, by a clock that is behind": {func(o *observed) { leaves(o, -time.Second); o.ticking.gone = []Gone{{ID: "LEAVER", How: Left}} }, nil, "The hub noticed after 1 ms"},
		"left, seen late":                 {func(o *observed) { leaves(o, 23*time.Second); throughProxy(o) }, []string{"leave-late"}, "only after 23 s"},
		"left, not seen":                  {func(o *observed) { leaves(o, 0); throughProxy(o) }, []string{"leave-late"}, "had not noticed after 98 s"},
		"left, on another hub":            {func(o *observed) { leaves(o, 0); o.left.hello.Tells = false }, []string{"note leave-unknown"}, "met different hubs"},
		"left, and all was cut":           {func(o *observed) { leaves(o, 0); cutAfter(&o.ticking, time.Minute); cutAfter(&o.silent, time.Minute) }, []string{"total-cut"}, ""},
		"few streams":                     {func(o *observed) { o.ticking.streams = 8 }, []string{"note h2-streams"}, "takes 8 requests at once here"},
		"just enough streams":             {func(o *observed) { o.ticking.streams = 100 }, nil, ""},
		"six tabs":                        {func(o *observed) { crowded(o, 0, 1, 2, 3, 4, 900*time.Millisecond) }, nil, ""},
		"four tabs":                       {func(o *observed) { crowded(o, 0, 1, 2, 3, -1, -1) }, []string{"few-streams"}, "only 4 came through; the others waited or were refused (status 503)"},
		"two tabs at a time":              {func(o *observed) { crowded(o, 0, 1, time.Second, 1001*time.Millisecond, 2*time.Second, 2*time.Second) }, []string{"few-streams"}, "only 2 came through; the others waited or were refused."},
		"tabs, and another doctor": {func(o *observed) {
			crowded(o, 0, 1, 2, 3, 4, -1)
			o.tabs[5].header, o.tabs[5].body = http.Header{"Content-Type": {"application/problem+json"}}, `{"code":"ProbesBusy","detail":"x"}`
		}, nil, ""},
		"another Host":  {func(o *observed) { o.host, o.ticking.hello.Host = "rt.example.com", "hub:8080" }, []string{"host"}, `asked as "hub:8080" and not as "rt.example.com"`},
		"the same Host": {func(o *observed) { o.host, o.ticking.hello.Host = "RT.example.com", "rt.example.com:443" }, nil, "no sign of a proxy"},
		"another port":  {func(o *observed) { o.host, o.ticking.hello.Host = "rt.example.com:8443", "rt.example.com" }, []string{"host"}, "rt.example.com:8443"},
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
	for _, code := range []string{"buffered", "idle-cut", "vanished", "total-cut", "compressed", "content-type", "cache-control", "cached", "http1-only", "http2-failed", "host", "leave-late", "few-streams"} {
		for _, proxy := range []string{nginx, caddy, envoy, cloudflare, apache, lighttpd, varnish, squid, ats, nghttpx, h2o} {
			is.True(slices.ContainsFunc(cures(code), func(a Advice) bool { return a.Proxy == proxy })) // each has a cure
		}
	}
	is.Equal(len(cures("h2-streams")), 14)
	o.ticking.header.Del("Server")
	o.ticking.header.Del("X-Accel-Buffering")
	is.Equal(o.proxies(), []string{"nginx"}) // which took it
}

// Who showed himself is named; the texts are those of Debian 12's packages, in an
// answer or in a request as it reached the hub.
func TestProxiesByName(t *testing.T) {
	for want, signs := range map[string][][2]string{
		apache:   {{"Server", "Apache/2.4.71 (Debian)"}, {"Server", "Apache"}, {"Via", "1.1 example.com (Apache/2.4.71)"}},
		lighttpd: {{"Server", "lighttpd/1.4.69"}},
		varnish:  {{"Via", "1.1 varnish (Varnish/7.1)"}, {"X-Varnish", "32770"}},
		squid:    {{"Via", "1.1 vm (squid/5.7)"}, {"hub", "1.1 vm (squid/5.7)"}},
		ats:      {{"Server", "ATS/9.2.9"}, {"hub", "http/1.1 traffic_server[f2c35c14] (ApacheTrafficServer/9.2.9)"}},
		nghttpx:  {{"Server", "nghttpx"}, {"Via", "1.1 nghttpx"}, {"hub", "2 nghttpx"}},
		h2o:      {{"Server", "h2o/2.2.5"}},
		nginx:    {{"Server", "nginx/1.22.1"}},
		caddy:    {{"Server", "Caddy"}},
	} {
		for _, sign := range signs {
			is := is.New(t)
			o := good()
			if sign[0] == "hub" {
				o.ticking.hello.Headers = map[string][]string{"Via": {sign[1]}}
			} else {
				o.ticking.header.Set(sign[0], sign[1])
			}
			is.Equal(o.proxies(), []string{want})
		}
	}
}

// Where nobody showed himself the hub itself comes first: no proxy is blamed for it.
func TestNobodyIsBlamedUnseen(t *testing.T) {
	is := is.New(t)
	o := good()
	cutAfter(&o.silent, 15*time.Second)
	is.Equal(judge(o)[0].Advice[0].Proxy, hub)
	throughProxy(&o)
	is.Equal(judge(o)[0].Advice[0].Proxy, nginx)
	o = observed{brief: trial{status: 401, header: http.Header{"Via": {"1.1 vm (squid/5.7)"}}}}
	finding, _ := o.failure()
	is.Equal(finding.Advice[0].Proxy, squid) // it takes Authorization away
	is.True(finding.Advice[0].Seen)
}

// A limit of the watch's own length is met before the probes' own end.
func TestBeyond(t *testing.T) {
	is := is.New(t)
	is.Equal(beyond(30*time.Second), 32375*time.Millisecond)
	is.True(beyond(MinFor) > MinFor+500*time.Millisecond)
	is.Equal(beyond(MaxFor), MaxFor) // the hub's own bound
}

// The page for users has every cure, word for word, and every code.
func TestPage(t *testing.T) {
	is := is.New(t)
	b, err := os.ReadFile("../../docs/doctor.md")
	is.NoErr(err)
	page := string(b)
	source := ""
	for _, name := range []string{"judge.go", "failure.go", "doors.go"} {
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
		for _, door := range []Door{WebSocket, Poll, SignalR} {
			for _, a := range doorCures(door, match[1]) {
				lines["\n- "+a.Proxy+": "+a.Change+"\n"] = true
			}
		}
	}
	is.True(len(lines) > 110)
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
		"nobody":         {trial{err: fmt.Errorf("connect: %w", syscall.ECONNREFUSED)}, "unreachable", "Nothing listens there"},
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
