package probe

import (
	"bytes"
	"encoding/json"
	"errors"
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
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/doctor"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// newServer serves probes on a hub's streams, which their handlers write, until the test ends.
func newServer(t testing.TB) *Server {
	d := delivery.New(delivery.Config{
		Retry: time.Second, Heartbeat: 15 * time.Second, Plain: true, Log: history.NewMemory(history.Limits{}),
		Resolver: room.Own{}, Quotas: &allowance.Pools{}, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() { d.Streams.Engine().Close(t.Context()) })
	return New(d.Streams, access.NewRates(access.RatesConfig{}))
}

// anybody is a caller in open mode.
func anybody(t testing.TB, r *http.Request) *access.Caller {
	auth, err := access.NewAuth(t.Context(), access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	who, err := auth.Admit(r, access.ScopeSubscribe, false)
	if err != nil {
		t.Fatal(err)
	}
	return who
}

// eventsOf are the events of a probe's answer.
func eventsOf(t testing.TB, body []byte) (events []sse.Event) {
	t.Helper()
	for reader := sse.NewReader(bytes.NewReader(body)); ; {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

// A probe is as long and ticks as often as it may; an error names each value that is not so.
func TestBounds(t *testing.T) {
	for query, want := range map[string]probe{
		"":                                {every: 250 * time.Millisecond, lasts: 30 * time.Second},
		"every=0":                         {lasts: 30 * time.Second},
		"every=50ms&for=30m":              {every: minProbeEvery, lasts: maxProbeTime},
		"every=30m&for=1ns":               {every: maxProbeTime, lasts: 1},
		"tell=AAAAAAAAAAAAAAAAAAAAAAAA22": {every: 250 * time.Millisecond, lasts: 30 * time.Second, tell: "AAAAAAAAAAAAAAAAAAAAAAAA22"},
	} {
		t.Run(query, func(t *testing.T) {
			is := is.New(t)
			p, err := parse(query)
			is.NoErr(err)
			is.Equal(p, want)
		})
	}
	for query, faults := range map[string]int{
		"every=49ms": 1, "every=-1s": 1, "every=30m1ns": 1, "every=soon": 1,
		"for=0": 1, "for=-1s": 1, "for=30m1ns": 1, "every=x&for=y&tell=z": 3, "tell=AAAAAAAAAAAAAAAAAAAAAAAA20": 1,
	} {
		t.Run(query, func(t *testing.T) {
			is := is.New(t)
			_, err := parse(query)
			is.Equal(len(problem.Fields(err)), faults)
		})
	}
}

// A probe ticks at its times, and no tick comes after its end; nothing of it stays.
func TestAProbeKeepsItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := newServer(t)
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/v1/doctor?every=50ms&for=225ms", nil)
		start := time.Now()
		is.NoErr(s.Serve(w, r, anybody(t, r)))
		is.Equal(time.Since(start), 225*time.Millisecond)
		events := eventsOf(t, w.Body.Bytes())
		is.Equal(len(events), 6)
		is.Equal(events[0].Type, doctor.EventHello)
		for i, e := range events[1:] {
			var tick doctor.Tick
			is.NoErr(json.Unmarshal([]byte(e.Data), &tick))
			want := doctor.Tick{Seq: i + 1, ElapsedMS: int64(50 * (i + 1))}
			if i == 4 {
				is.Equal(e.Type, doctor.EventDone)
				want = doctor.Tick{Seq: 4, ElapsedMS: 225}
			}
			is.Equal([]int64{int64(tick.Seq), tick.ElapsedMS}, []int64{int64(want.Seq), want.ElapsedMS})
		}
		synctest.Wait()
		is.Equal(len(s.told), 0)
	})
}

// Whatever ends a probe before its time ends it then: its credential, the hub's drain.
func TestAProbeEndsBeforeItsTime(t *testing.T) {
	for reason, expires := range map[delivery.CloseReason]time.Duration{delivery.CloseExpired: time.Second, delivery.CloseDrain: 0} {
		t.Run(string(reason), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				s := newServer(t)
				gone := make(chan struct{})
				words := s.streams.Encoder(sse.Encoding{})
				stream := words.NewStream(func(error) { close(gone) })
				var until time.Time
				if expires > 0 {
					until = time.Now().Add(expires)
				}
				go s.run(&openProbe{stream: stream, start: time.Now()}, words, probe{lasts: time.Hour}, until, gone)
				if expires == 0 {
					time.AfterFunc(time.Second, s.streams.Refuse)
				}
				start := time.Now()
				w := httptest.NewRecorder()
				s.streams.Engine().Serve(w, httptest.NewRequest("GET", "/", nil), stream)
				is.Equal(time.Since(start), time.Second)
				events := eventsOf(t, w.Body.Bytes())
				is.Equal(len(events), 1)
				is.Equal(events[0].Type, "hub.closing")
				is.True(strings.Contains(events[0].Data, string(reason)))
			})
		})
	}
}

// A probe is found by its id and its holder, and its end is told to it alone.
func TestWhoIsToldOfAnEnd(t *testing.T) {
	is := is.New(t)
	s := newServer(t)
	holder := func(id string) event.TenantProfile {
		return event.TenantProfile{Tenant: "acme", Profile: event.Profile{Type: "user", ID: id}}
	}
	stream := s.streams.Encoder(sse.Encoding{}).NewStream(func(error) {})
	a := &openProbe{holder("a"), sse.Encoding{}, stream, time.Now()}
	s.told["A"] = a
	is.True(s.find("A", holder("a")) != nil)
	is.True(s.find("A", holder("b")) == nil)
	is.True(s.find("B", holder("a")) == nil)
	s.ended("B", "A", holder("a"), engine.ErrVanished)
	s.ended("C", "A", holder("b"), engine.ErrGone) // another's
	s.ended("D", "A", holder("a"), nil)            // which ended when it was to
	stream.Close(a.frame(doctor.EventDone, a.tick(0), "done"))
	w := httptest.NewRecorder()
	s.streams.Engine().Serve(w, httptest.NewRequest("GET", "/", nil), stream)
	events := eventsOf(t, w.Body.Bytes())
	is.Equal(len(events), 2)
	var told doctor.Gone
	is.NoErr(json.Unmarshal([]byte(events[0].Data), &told))
	is.Equal(told.ID, "B")
	is.Equal(told.How, doctor.Vanished)
}

// What is repeated of a request is no secret, and short.
func TestWhatIsRepeated(t *testing.T) {
	is := is.New(t)
	r := httptest.NewRequest("GET", "/v1/doctor?access_token=canary", nil)
	r.Header.Set("Authorization", "canary")
	r.Header.Set("Cookie", "canary")
	r.Header.Set("Via", strings.Repeat("é", maxShown))
	r.Host = strings.Repeat("h", 1000)
	hello := seen(r, probe{every: time.Second, lasts: time.Minute}, time.Now(), 15*time.Second)
	text, err := json.Marshal(hello)
	is.NoErr(err)
	is.True(!strings.Contains(string(text), "canary"))
	is.Equal(hello.Headers, map[string][]string{"Via": {strings.Repeat("é", maxShown/2)}})
	is.Equal(len(hello.Host), maxShown)
	is.Equal([]int64{hello.EveryMS, hello.ForMS, hello.HeartbeatMS}, []int64{1000, 60_000, 15_000})
}
