package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/overload"
)

// newScarceHub is newTestHub whose memory is used by so many percent from when look is called.
func newScarceHub(t *testing.T) (h *testHub, look func(percent int64)) {
	var used atomic.Int64
	var looks []*atomic.Int64 // of each node
	h = newTestHub(t, func(cfg *HubConfig, _ *PresenceConfig) {
		n := &atomic.Int64{}
		looks = append(looks, n)
		cfg.Memory = func(bool) (int64, int64) {
			n.Add(1)
			return used.Load() << 30, 100 << 30
		}
	})
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	t.Cleanup(func() {
		stop()
		watching.Wait()
	})
	for _, node := range h.nodes {
		watching.Go(func() { node.WatchMemory(ctx) })
	}
	return h, func(percent int64) {
		used.Store(percent)
		for _, n := range looks {
			const many = 13 // over more than a second, which an overload lasts at least
			from := n.Load()
			eventually(t, func() bool { return n.Load() >= from+many })
		}
	}
}

// While hardly any memory is left new streams and events are refused, in words that say
// when to come back; open streams and questions are not.
func TestAnOverloadedHubRefuses(t *testing.T) {
	t.Parallel()
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
	is.True(wait >= overload.Away)
	is.True(wait <= 2*(overload.Away+2*time.Second))
	is.True(h.nodes[0].Stats().Tenants <= 1) // nothing is made for it
	status, answer = h.do(t, "GET", "/readyz", "")
	is.Equal(status, http.StatusOK)
	is.Equal(answer["status"], "overloaded")
	status, answer = h.do(t, "GET", "/v1/doctor", "")
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "Overloaded")
	status, _ = h.do(t, "GET", "/v1/tenants/acme/presence/a", "")
	is.Equal(status, http.StatusOK)

	look(76)
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
	t.Parallel()
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
