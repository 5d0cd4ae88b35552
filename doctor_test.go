package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/doctor"
	"realtimehub/internal/history"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// openProbe opens GET /v1/doctor?query; headers are names and values.
func (h *testHub) openProbe(t testing.TB, query string, headers ...string) (*http.Response, *hubtest.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", h.URL+"/v1/doctor?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res, newStreamReader(t, res.Body)
}

// maxOwnProbes is how many probes one may have open (docs/limits.md).
const maxOwnProbes = 12

func TestProbe(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		is := is.New(t)
		h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Plain = plain })
		real, err := h.client.Get(h.URL + "/v1/stream?tenant=acme&profile=user:1")
		is.NoErr(err)
		real.Body.Close()
		for ticks := 0; ticks == 0; { // or it has missed all
			res, reader := h.openProbe(t, "every=50ms&for=1025ms&access_token=canary", "Via", "1.1 somebody", "X-Forwarded-For", strings.Repeat("9", 1000),
				"Authorization", "canary", "Cookie", "realtime_token=canary", "X-Forwarded-Access-Token", "canary", "X-Api-Key", "canary")
			for _, header := range []http.Header{real.Header, res.Header} {
				header.Del("Date")
			}
			is.Equal(res.Header, real.Header) // so that a proxy treats both alike
			event, err := reader.Next()
			is.NoErr(err)
			is.Equal(event.Type, doctor.EventHello)
			is.True(!strings.Contains(event.Data, "canary"))
			var hello doctor.Hello
			is.NoErr(json.Unmarshal([]byte(event.Data), &hello))
			is.Equal(hello.Protocol, "HTTP/1.1")
			is.Equal(hello.Host, strings.TrimPrefix(h.URL, "http://"))
			is.Equal(hello.Headers, map[string][]string{"Accept-Encoding": {"gzip"}, "Via": {"1.1 somebody"}, "X-Forwarded-For": {strings.Repeat("9", 256)}})
			is.Equal([]int64{hello.EveryMS, hello.ForMS, hello.HeartbeatMS}, []int64{50, 1025, 15_000})
			var before doctor.Tick
			for {
				event, err := reader.Next()
				is.NoErr(err)
				var tick doctor.Tick
				is.NoErr(json.Unmarshal([]byte(event.Data), &tick))
				is.True(tick.ElapsedMS >= int64(50*tick.Seq)) // one that a slow machine sent late may be followed at once
				if event.Type == doctor.EventDone {
					is.Equal(tick.Seq, before.Seq)
					is.True(tick.ElapsedMS >= 1025)
					break
				}
				is.Equal(event.Type, doctor.EventTick)
				is.Equal(tick.Seq, before.Seq+1)
				before = tick
			}
			ticks = before.Seq
			is.True(ticks <= 20) // a slow machine may miss some
			_, err = reader.Next()
			is.Equal(err, io.EOF)
		}
	}
}

// A silent probe gets no heartbeat while other streams do.
func TestASilentProbeIsSilent(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	h := newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Heartbeat = 50 * time.Millisecond })
	_, reader := h.openProbe(t, "every=0&for=1s")
	for _, want := range []string{doctor.EventHello, doctor.EventDone} {
		event, err := reader.Next()
		is.NoErr(err)
		is.Equal(event.Type, want)
	}
	is.Equal(reader.Comments, 0)
	_, other := h.openProbe(t, "every=900ms&for=1m")
	for other.Comments <= 2 { // where a probe is not silent they come between its events
		_, err := other.Next()
		is.NoErr(err)
	}
}

func TestProbeParameters(t *testing.T) {
	h := newTestHub(t)
	for query, fields := range map[string][]string{
		"every=49ms": {"every"}, "every=-1s": {"every"}, "every=often": {"every"}, "every=31m": {"every"},
		"for=0": {"for"}, "for=-1s": {"for"}, "for=30m1s": {"for"}, "for=30": {"for"}, "every=x&for=y": {"every", "for"}, "tell=somebody": {"tell"},
	} {
		t.Run(query, func(t *testing.T) {
			is := is.New(t)
			status, answer := h.do(t, "GET", "/v1/doctor?"+query, "")
			is.Equal(status, 400)
			is.Equal(answer["code"], "InvalidField")
			var got []string
			for _, fault := range answer["errors"].([]any) {
				got = append(got, fault.(map[string]any)["field"].(string))
			}
			is.Equal(got, fields)
		})
	}
	is := is.New(t)
	for _, query := range []string{"every=0s&for=50ms", "every=50ms&for=30m", ""} {
		res, _ := h.openProbe(t, query)
		is.Equal(res.StatusCode, 200)
		res.Body.Close()
	}
	res, err := h.client.Head(h.URL + "/v1/doctor")
	is.NoErr(err)
	is.Equal(res.Header.Get("Content-Type"), "text/event-stream")
}

// The 13th probe of one is refused, and the 25th of a tenant that is alone, until
// another is over; the answer says whose limit it is. Four people of a tenant, or ten
// tenants, do not take them all: whoever comes next examines its way.
func TestProbesAreFew(t *testing.T) {
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001"}}), access.RatesConfig{})
	tenant := "acme"
	open := func(sub string) *http.Response {
		t.Helper()
		credential := "Bearer service-key-0001"
		if sub != "" {
			credential = bearer(t, "sub", sub, "tenant", tenant)
		}
		res, reader := h.openProbe(t, "every=0&for=1m", "Authorization", credential)
		if res.StatusCode == 200 {
			_, err := reader.Next()
			is.NoErr(err)
		}
		return res
	}
	refused := func(sub, whose string) {
		t.Helper()
		res := open(sub)
		var body struct{ Code, Detail string }
		is.NoErr(json.NewDecoder(res.Body).Decode(&body))
		is.Equal(res.StatusCode, 503)
		is.Equal(body.Code, "ProbesBusy")
		is.True(strings.Contains(body.Detail, whose))
		is.Equal(res.Header.Get("Retry-After"), "1")
	}
	comesBack := func(sub string) {
		t.Helper()
		eventually(t, func() bool { return open(sub).StatusCode == 200 })
	}
	var first io.Closer
	for _, sub := range []string{"", "user:1"} {
		for range maxOwnProbes {
			res := open(sub)
			is.Equal(res.StatusCode, 200)
			first = cmp.Or[io.Closer](first, res.Body)
		}
		refused(sub, "which is the limit")
	}
	refused("user:2", "this tenant or address")
	first.Close()
	comesBack("user:2")
	refused("", "this tenant or address")

	for i := range 10 {
		tenant = fmt.Sprint("greedy-", i)
		for n := range 32 {
			open(fmt.Sprint("user:", n%4))
		}
	}
	tenant = "quiet"
	for range 6 { // as many as a doctor opens
		is.Equal(open("user:1").StatusCode, 200)
	}
}

func TestProbesEndWithTheHub(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	_, reader := h.openProbe(t, "every=0&for=1m")
	_, err := reader.Next()
	is.NoErr(err)
	go h.streams.Drain(t.Context(), 0)
	event, err := reader.Next()
	is.NoErr(err)
	is.Equal(event.Type, "hub.closing")
	is.True(strings.Contains(event.Data, `"reason":"drain"`))
	status, answer := 0, map[string]any{}
	res, _ := h.openProbe(t, "")
	status = res.StatusCode
	is.NoErr(json.NewDecoder(res.Body).Decode(&answer))
	is.Equal(status, 503)
	is.Equal(answer["code"], "Draining")
}

// plainHub is a hub in a bubble, where there are no sockets, and what serves it.
func plainHub(t *testing.T) (*Hub, *api) {
	logger := slog.New(slog.DiscardHandler)
	hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Plain: true, Logger: logger}, PresenceConfig{Audience: settings.AudienceNone, Grace: time.Second}, nil, Reporting{})
	return hub, NewAPI(hub, newAuth(t, access.Config{Secret: testSecret}), access.NewRates(access.RatesConfig{}), APIConfig{Logger: logger})
}

func TestAProbeLivesAsLongAsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		hub, api := plainHub(t)
		start := time.Now()
		pr, pw := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			r := httptest.NewRequest("GET", "/v1/doctor?every=10s&for=5m", nil)
			r.Header.Set("Authorization", bearer(t, "exp", start.Add(time.Minute).Unix(), "scope", "publish"))
			checked(t, api.Handler()).ServeHTTP(&pipeWriter{header: http.Header{}, w: pw}, r)
			pw.Close()
		}()
		reader := newStreamReader(t, pr)
		for {
			event, err := reader.Next()
			is.NoErr(err)
			if event.Type == "hub.closing" {
				is.True(strings.Contains(event.Data, `"reason":"expired"`))
				break
			}
		}
		is.True(time.Since(start) > 59*time.Second && time.Since(start) <= time.Minute)
		<-done
		last, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		is.NoErr(hub.streams.Engine().Close(last))
	})
}

// A probe of the door for polls waits no longer than its token lasts.
func TestAProbeOfPollsLivesAsLongAsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		_, api := plainHub(t)
		start := time.Now()
		r := httptest.NewRequest("GET", "/v1/poll?doctor=true&for=5m", nil)
		r.Header.Set("Authorization", bearer(t, "exp", start.Add(time.Minute).Unix(), "scope", "publish"))
		w := httptest.NewRecorder()
		checked(t, api.Handler()).ServeHTTP(w, r)
		is.Equal(w.Code, http.StatusUnauthorized)
		is.True(strings.Contains(w.Body.String(), `"code":"CredentialExpired"`))
		is.True(time.Since(start) > 59*time.Second && time.Since(start) <= time.Minute)
	})
}
