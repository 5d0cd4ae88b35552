package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/door/signalr"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// onceADay gives nothing back while a test lasts: each has one, at the start.
const onceADay = 1.0 / 86400

// failing is a membership service and a log that fail where they are told to.
type failing struct {
	*history.Memory
	mu  sync.Mutex
	err error // of all appends
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *failing) Append(ctx context.Context, entries []*history.Entry) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.Memory.Append(ctx, entries)
}

// Resolve fails for the room "down".
func (f *failing) Resolve(_ context.Context, _ string, r event.Room) (*room.Roster, error) {
	if r.ID == "down" {
		return nil, errors.New("it does not answer")
	}
	return &room.Roster{}, nil
}

// limited is the API of a hub that stands on f.
func limited(t testing.TB, auth *access.Auth, f *failing, limits access.RatesConfig) http.Handler {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	hub := NewHub(HubConfig{Retry: time.Second, Log: f, Resolver: f, Logger: logger}, PresenceConfig{Audience: settings.AudienceNone}, nil, Reporting{})
	t.Cleanup(func() { hub.streams.Engine().Close(context.Background()) })
	return checked(t, NewAPI(hub, auth, access.NewRates(limits), APIConfig{Logger: slog.New(slog.DiscardHandler)}).Handler())
}

func toTenants(names ...string) string {
	var events []string
	for _, name := range names {
		events = append(events, eventJSON(name, "a.b", `{"kind":"tenant"}`, "1"))
	}
	return strings.Join(events, ",")
}

// A batch over several tenants that is refused for one of them costs none of them.
func TestARefusedBatchCostsNothing(t *testing.T) {
	is := is.New(t)
	for range 20 { // whichever tenant is looked at first
		api := limited(t, openDoor(t), &failing{Memory: history.NewMemory(testLimits)}, access.RatesConfig{PublishRate: onceADay})
		is.Equal(ask(api, "POST", "/v1/events", toTenants("full")).Code, 202)
		is.Equal(ask(api, "POST", "/v1/events/batch", `{"events":[`+toTenants("a", "b", "full", "y", "z")+`]}`).Code, 429)
		for _, tenant := range []string{"a", "b", "y", "z"} {
			is.Equal(ask(api, "POST", "/v1/events", toTenants(tenant)).Code, 202) // it has its event still
		}
	}
}

// What was not stored costs nothing; what may have been does.
func TestWhatWasNotStoredCostsNothing(t *testing.T) {
	is := is.New(t)
	f := &failing{Memory: history.NewMemory(testLimits)}
	api := limited(t, openDoor(t), f, access.RatesConfig{PublishRate: onceADay})
	post := func(target string) int {
		return ask(api, "POST", "/v1/events", eventJSON("acme", "a.b", target, "1")).Code
	}
	is.Equal(post(`{"kind":"nobody"}`), 400)
	for range 3 {
		is.Equal(post(`{"kind":"conversation","conversationId":"down"}`), 503)
	}
	f.fail(history.ErrNotStored)
	is.Equal(post(`{"kind":"tenant"}`), 503)
	f.fail(history.ErrUnconfirmed)
	is.Equal(post(`{"kind":"tenant"}`), 503)
	f.fail(nil)
	is.Equal(post(`{"kind":"tenant"}`), 429) // for the one before
}

// Lines that are published together, and then one by one since something is wrong with
// one of them, cost once each; those that were not stored nothing.
func TestLinesCostOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		api := limited(t, openDoor(t), &failing{Memory: history.NewMemory(testLimits)}, access.RatesConfig{PublishRate: 4})
		body := toTenants("acme") + "\n" + eventJSON("acme", "a.b", `{"kind":"conversation","conversationId":"down"}`, "1") + "\n" + toTenants("acme") + "\n"
		r := httptest.NewRequest("POST", "/v1/events", strings.NewReader(body))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/x-ndjson")
		w := httptest.NewRecorder()
		start := time.Now()
		api.ServeHTTP(w, r)
		is.True(strings.Contains(w.Body.String(), `{"accepted":2,"refused":1,`))
		is.Equal(time.Since(start), time.Duration(0)) // none had to wait
		codes := map[int]int{}
		for range 4 {
			codes[ask(api, "POST", "/v1/events", toTenants("acme")).Code]++
		}
		is.Equal(codes, map[int]int{202: 2, 429: 2}) // two of four were left
	})
}

// askedPeers count what another hub is asked.
type askedPeers struct {
	clustertest.Peers
	asked int
}

// Others implements cluster.Peers.
func (p *askedPeers) Others() [][4]byte { return [][4]byte{[4]byte([]byte("else"))} }

func (p *askedPeers) Ask(context.Context, [4]byte, cluster.Call) (cluster.Answer, error) {
	p.asked++
	return cluster.Answer{}, cluster.ErrElsewhere
}

// besideAsked is a hub beside others that count what they are asked.
func besideAsked(t *testing.T) (*Hub, *askedPeers) {
	peers := &askedPeers{}
	hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler)},
		PresenceConfig{Audience: settings.AudienceNone}, peers, Reporting{})
	t.Cleanup(func() { hub.streams.Engine().Close(context.Background()) })
	return hub, peers
}

// A client over its limit causes no question to another hub.
func TestALimitComesBeforeAQuestion(t *testing.T) {
	for name, auth := range map[string]*access.Auth{"with a token": newAuth(t, access.Config{Secret: testSecret}), "open": openDoor(t)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			hub, peers := besideAsked(t)
			api := checked(t, NewAPI(hub, auth, access.NewRates(access.RatesConfig{ClientRate: onceADay}), APIConfig{Logger: slog.New(slog.DiscardHandler)}).Handler())
			var headers []string
			if !auth.Open() {
				headers = []string{"Authorization", bearer(t)}
			}
			codes := map[int]int{}
			for range 5 {
				id := uuid.Must(uuid.NewV7())
				copy(id[12:], "else") // another hub's
				for _, call := range []string{"POST /v1/connections/%s/touch", "PUT /v1/connections/%s/token", "PATCH /v1/connections/%s"} {
					method, path, _ := strings.Cut(fmt.Sprintf(call, id), " ")
					codes[ask(api, method, path, "", headers...).Code]++
				}
			}
			is.Equal(codes, map[int]int{404: 1, 429: 14})
			is.Equal(peers.asked, 1)
		})
	}
}

// Nor does one who asks for a SignalR session that no hub holds, which all are asked for.
func TestALimitComesBeforeASessionIsLookedFor(t *testing.T) {
	const touch = `{"type":1,"target":"Touch","arguments":[]}` + "\x1e"
	for name, call := range map[string]struct{ method, body string }{"a call": {"POST", touch}, "a poll": {"GET", ""}, "an end": {"DELETE", ""}} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			hub, peers := besideAsked(t)
			api := checked(t, NewAPI(hub, openDoor(t), access.NewRates(access.RatesConfig{ClientRate: onceADay}), APIConfig{Logger: slog.New(slog.DiscardHandler), Secrets: hubsSecrets}).Handler())
			id := signalRKeys.Sign(signalr.Pass{Session: uuid.New(), Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}})
			codes := map[int]int{}
			for range 5 {
				codes[ask(api, call.method, "/signalr?"+asMe+"&id="+id, call.body, "Content-Type", "text/plain;charset=UTF-8").Code]++
			}
			is.Equal(codes, map[int]int{404: 1, 429: 4})
			is.Equal(peers.asked, 1)
		})
	}
}

// A publisher whose lines wait for their rate is told at a drain that they are not
// taken any more, and what was.
func TestDrainEndsLinesThatWait(t *testing.T) {
	alone(t, "limits are each hub's own")
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{PublishRate: onceADay})
	c := h.open(t, "tenant=acme&profile=me")
	body, lines := io.Pipe()
	answer := make(chan *http.Response, 1)
	go func() {
		res, err := h.client.Post(h.URL+"/v1/events", "application/x-ndjson", body)
		if err != nil {
			t.Error(err)
			res = &http.Response{Body: http.NoBody}
		}
		answer <- res
	}()
	line := toTenants("acme") + "\n"
	io.WriteString(lines, line)
	c.until(t, "a.b") // the first is taken; the others wait
	go io.WriteString(lines, line+line+line)
	eventually(t, func() bool { return h.API.publishing.limits.Met()["publish"] > 0 })
	h.streams.Drain(t.Context(), 0)
	res := <-answer
	defer res.Body.Close()
	var refused, last map[string]any
	n := 0
	for in := bufio.NewScanner(res.Body); in.Scan(); n++ {
		refused, last = last, nil
		is.NoErr(json.Unmarshal(in.Bytes(), &last))
	}
	lines.Close()
	is.True(n >= 3)
	is.Equal(refused["code"], "Draining")
	is.Equal(last["accepted"], 1.0)
	is.Equal(last["refused"], float64(n-1))
}
