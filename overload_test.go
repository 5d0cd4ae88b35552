package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/plan"
)

// memoryOf is a MemoryUse of so many percent.
func memoryOf(percent *atomic.Int64) MemoryUse {
	return func(bool) (used, limit int64) { return percent.Load() * 1000, 100_000 }
}

// keepsNothing is the kept of a hub that does not.
func keepsNothing() int64 { return 0 }

// newScarceHub is newTestHub whose memory is used by so many percent, which is looked at
// when look is called.
func newScarceHub(t *testing.T) (h *testHub, look func(percent int64)) {
	var used atomic.Int64
	h = newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) { cfg.Memory = memoryOf(&used) })
	for _, node := range h.nodes {
		node.overload.kept = keepsNothing
	}
	return h, func(percent int64) {
		used.Store(percent)
		for _, node := range h.nodes {
			node.overload.look()
			node.overload.since = time.Time{} // long ago
		}
	}
}

// An overload begins at 90 % and ends below 75 %, a second later at the earliest, and
// each is said once.
func TestOverloadBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var used, reliefs atomic.Int64
		var logs strings.Builder
		o := &overload{use: memoryOf(&used), kept: keepsNothing, relieve: func() { reliefs.Add(1) }, logger: slog.New(slog.NewTextHandler(&logs, nil))}
		for _, step := range []struct {
			used       int64
			overloaded bool
		}{{0, false}, {89, false}, {90, true}, {10, true}, {99, true}, {75, true}, {89, true}, {74, false}, {89, false}, {120, true}} {
			used.Store(step.used)
			o.look()
			is.Equal(o.Overloaded(), step.overloaded)
			is.Equal(o.Stats(), OverloadStats{step.overloaded, step.used * 1000, 100_000})
			time.Sleep(overloadLeast / 4)
		}
		is.Equal(strings.Count(logs.String(), `msg="overloaded: `), 2)
		is.Equal(strings.Count(logs.String(), `msg="no longer overloaded"`), 1)
		is.Equal(reliefs.Load(), int64(3)) // not at each look
	})
}

// Whatever is planned, an overload ends by itself in a hub whose histories and state are as
// full as they may be, once its streams owe what a relief leaves.
func TestAnOverloadEndsWhereMuchIsKept(t *testing.T) {
	const mib = 1 << 20
	plans := map[string]plan.Memory{
		"most is history":    {Streams: 64 * mib, History: 4096 * mib, State: 64 * mib, Calls: 16 * mib},
		"most is state":      {Streams: 64 * mib, History: mib, State: 1024 * mib, Calls: 64 * mib},
		"most is for others": {Streams: 1024 * mib, History: mib, State: 32 * mib, Calls: 64 * mib},
		"little of all":      {Streams: 8 * mib, History: 8 * mib, State: 4 * mib, Calls: 4 * mib},
	}
	for bytes := int64(64 * mib); bytes <= 64<<30; bytes *= 2 {
		plans[fmt.Sprint(bytes/mib, " MiB")] = plan.Of(bytes)
	}
	for name, memory := range plans {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				used, kept, limit := int64(0), memory.History+memory.State, memory.GoLimit()
				o := &overload{
					use: func(bool) (int64, int64) { return used, limit }, kept: func() int64 { return kept },
					relieve: func() {}, logger: slog.New(slog.DiscardHandler),
				}
				used = limit
				o.look()
				is.True(o.Overloaded())
				time.Sleep(overloadLeast)
				const idle, relieved = 4 * mib, 30 // percent
				used = kept + memory.Streams/100*relieved + idle
				o.look()
				is.True(!o.Overloaded())
				is.True(used < limit/100*overloadBegins) // nor does it begin again
			})
		})
	}
}

// The memory is looked at all the time, and streams are relieved while it is scarce;
// nothing is done without a limit.
func TestMemoryIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var used, reliefs atomic.Int64
		var freshly atomic.Bool
		o := &overload{kept: keepsNothing, relieve: func() { reliefs.Add(1) }, logger: slog.New(slog.DiscardHandler)}
		o.WatchMemory(t.Context()) // returns: there is nothing to be watched
		o.use = func(fresh bool) (int64, int64) {
			freshly.Store(fresh)
			return memoryOf(&used)(fresh)
		}
		go o.WatchMemory(t.Context())
		time.Sleep(time.Hour)
		synctest.Wait()
		is.True(!o.Overloaded())
		used.Store(95)
		time.Sleep(overloadLook)
		synctest.Wait()
		is.True(o.Overloaded())
		time.Sleep(10*overloadRelief - overloadLook)
		synctest.Wait()
		is.Equal(reliefs.Load(), int64(10))
		is.True(freshly.Load()) // who is refused makes no garbage: it must be looked for
		used.Store(10)
		time.Sleep(overloadLook)
		synctest.Wait()
		is.True(!o.Overloaded())

		unlimited := &overload{use: func(bool) (int64, int64) { return 1 << 40, 0 }, kept: keepsNothing, logger: slog.New(slog.DiscardHandler)}
		go unlimited.WatchMemory(t.Context())
		time.Sleep(time.Hour)
		is.True(!unlimited.Overloaded())
	})
}

// While hardly any memory is left new streams and events are refused, in words that say
// when to come back; open streams and questions are not.
func TestAnOverloadedHubRefuses(t *testing.T) {
	is := is.New(t)
	h, look := newScarceHub(t)
	open := h.open(t, "tenant=acme&profile=a")
	const event = `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`
	look(90)

	for path, body := range map[string]string{
		"/v1/events": event, "/v1/events/batch": `{"events":[` + event + `]}`, "/v1/tenants/acme/events": `{"type":"a.b","payload":1}`,
	} {
		res, err := h.client.Post(h.URL+path, "application/json", strings.NewReader(body))
		is.NoErr(err)
		res.Body.Close()
		is.Equal(res.StatusCode, http.StatusServiceUnavailable)
		after, err := strconv.Atoi(res.Header.Get("Retry-After"))
		is.NoErr(err)
		is.True(after >= 5 && after <= 10)
	}
	status, answer := h.post(t, "/v1/events", event)
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "Overloaded")
	reason, wait := turned(t, h.nodes[0], "tenant=other&profile=b") // whoever they are
	is.Equal(reason, "capacity")
	is.True(wait >= overloadAway)
	is.True(wait <= 2*(overloadAway+2*time.Second))
	is.Equal(h.nodes[0].find("other"), nil) // nothing is made for it
	status, answer = h.do(t, "GET", "/readyz", "")
	is.Equal(status, http.StatusOK)
	is.Equal(answer["status"], "overloaded")
	status, answer = h.do(t, "GET", "/v1/doctor", "")
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "Overloaded")
	status, _ = h.do(t, "GET", "/v1/tenants/acme/presence/a", "")
	is.Equal(status, http.StatusOK)

	look(75)
	status, _ = h.post(t, "/v1/events", event)
	is.Equal(status, http.StatusServiceUnavailable)
	look(74)
	status, answer = h.do(t, "GET", "/readyz", "")
	is.Equal(status, http.StatusOK)
	is.Equal(answer["status"], "ready")
	status, _ = h.post(t, "/v1/events", event)
	is.Equal(status, http.StatusAccepted)
	is.Equal(open.next(t).Type, "a.b") // it was there all the time
	h.open(t, "tenant=other&profile=b")
}

// Lines of a body that is under way are refused one by one.
func TestAnOverloadRefusesLines(t *testing.T) {
	is := is.New(t)
	h, look := newScarceHub(t)
	line := func(n int) string {
		return fmt.Sprintf(`{"tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"tenant"}}`+"\n", n)
	}
	body, lines := io.Pipe()
	go lines.Write([]byte(line(1)))
	res, err := h.client.Post(h.URL+"/v1/events?results=all", "application/x-ndjson", body)
	is.NoErr(err)
	defer res.Body.Close()
	answers := bufio.NewScanner(res.Body)
	answered := func(want string) {
		t.Helper()
		is.True(answers.Scan())
		is.True(strings.Contains(answers.Text(), want))
	}
	answered(`"line":1,"id":`)
	look(90)
	io.WriteString(lines, line(2))
	answered(`{"line":2,"code":"Overloaded"`)
	look(10)
	io.WriteString(lines, line(3))
	answered(`"line":3,"id":`)
	lines.Close()
	answered(`{"accepted":2,"refused":1`)
}

// What is judged is what a collection cannot give back, and not garbage.
func TestGoMemory(t *testing.T) {
	is := is.New(t)
	use := goMemory()
	liveHeap() // collects
	before, _ := use(true)
	percent := debug.SetGCPercent(-1)
	for range 8 {
		garbage = make([]byte, 16<<20)
	}
	after, _ := use(false)
	debug.SetGCPercent(percent)
	is.True(after-before < 16<<20)
	garbage = make([]byte, 64<<20)
	liveHeap()
	after, _ = use(false)
	is.True(after-before >= 60<<20)
	garbage = nil
	liveHeap()
	after, _ = use(false)
	is.True(after-before < 16<<20)
}

var garbage []byte

// turned opens a stream that is turned away, and returns why and for how long.
func turned(t testing.TB, h *testHub, query string) (reason string, wait time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", h.URL+"/v1/stream?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	event, err := newStreamReader(t, res.Body).Next()
	if err != nil || event.Type != "hub.closing" {
		t.Fatalf("%+v, %v", event, err)
	}
	return closingIn(t, event.Data)
}
