package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

var stormSeed = flag.Uint64("storm.seed", 0, "repeat TestStorm with this seed; 0 takes a new one")

// However often clients are cut while much is published, at the end each has all
// that was for it, once and in order, and never heard of a gap.
func TestStorm(t *testing.T) {
	alone(t, "TestClusterStorm")
	is := is.New(t)
	clients, cuts, events := 1000, 10, 20_000
	if testing.Short() {
		clients, events = 100, 2000
	}
	const each, batch, perSecond = 10, 50, 5000
	seed := *stormSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to repeat: go test -run TestStorm -storm.seed=%d .", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	h := newTestHub(t, func(hub *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.Events, limits.Bytes = 0, 0 // a slow machine's clients are behind, not expired
		hub.Log = history.NewMemory(limits)
	})
	addr := h.Server.Listener.Addr().String()
	all := make([]*hubtest.CutClient, clients)
	var ready, done sync.WaitGroup
	for i := range all {
		all[i] = &hubtest.CutClient{Addr: addr, Profile: fmt.Sprint(i), Patience: 2 * time.Minute} // longer than the last cuts may take
		ready.Add(1)
		done.Go(func() { all[i].Run(&ready) })
	}
	for room := range clients / each {
		var members []string
		for i := range each {
			members = append(members, fmt.Sprintf("%q", fmt.Sprint(room*each+i)))
		}
		status, _ := h.do(t, http.MethodPut, fmt.Sprintf("/v1/tenants/acme/conversations/%d/members", room), `{"members":[`+strings.Join(members, ",")+`]}`)
		is.Equal(status, http.StatusNoContent)
	}
	ready.Wait()

	// When each client is cut: as so many events have been published. Most cuts wait until it has heard
	// hub.ready, or a slow machine's clients would hardly ever have resumed.
	type cut struct {
		at, client int
		waits      bool
	}
	var plan []cut
	for i := range all {
		for range cuts {
			plan = append(plan, cut{at: random.IntN(events), client: i, waits: random.IntN(4) > 0})
		}
	}
	slices.SortFunc(plan, func(a, b cut) int { return a.at - b.at })
	cutDue := func(published int) {
		plan = slices.DeleteFunc(plan, func(c cut) bool {
			client := all[c.client]
			if c.at >= published || c.waits && !client.Ready() {
				return false
			}
			client.Cut(random.IntN(2) == 0)
			return true
		})
	}

	want := make([][]int, clients)
	start := time.Now()
	tick := time.NewTicker(time.Second * batch / perSecond)
	defer tick.Stop()
	for n := 0; n < events; {
		var list []string
		for range batch {
			room := random.IntN(clients / each)
			target := fmt.Sprintf(`{"kind":"conversation","conversationId":"%d"}`, room)
			to := make([]int, each)
			for i := range to {
				to[i] = room*each + i
			}
			if n%4 > 0 {
				to = random.Perm(clients)[:each]
				target = strings.Join(strings.Fields(fmt.Sprint(to)), `","`)
				target = `{"kind":"profiles","profiles":["` + strings.Trim(target, "[]") + `"]}`
			}
			for _, i := range to {
				want[i] = append(want[i], n)
			}
			list = append(list, eventJSON("acme", "a.b", target, fmt.Sprint(n)))
			n++
		}
		<-tick.C
		h.accepted(t, "/v1/events/batch", `{"events":[`+strings.Join(list, ",")+`]}`)
		cutDue(n)
	}
	rate := float64(events) / time.Since(start).Seconds() // less where the machine is slow
	eventually(t, func() bool {
		cutDue(events)
		return len(plan) == 0
	})
	h.publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	resumes := 0
	for i, c := range all {
		is.NoErr(c.Fault)
		is.Equal(c.Got, want[i]) // all, once, in order
		is.Equal(c.Resumes["fresh"], 1)
		is.Equal(c.Resumes["partial"], 0)
		resumes += c.Resumes["complete"]
	}
	t.Logf("%d clients resumed %d times, %.0f events/s", clients, resumes, rate)
	is.True(resumes > clients*cuts/2) // others were cut before they heard hub.ready
}

// All subscribers of a tenant see one order, whoever publishes at once.
func TestOrderOfAll(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const publishers, each = 16, 16
	subscribers := 1000
	if testing.Short() {
		subscribers = 100
	}
	h := newTestHub(t)
	var ready, done sync.WaitGroup
	chains := make([][sha256.Size]byte, subscribers)
	faults := make(chan error, subscribers)
	for i := range subscribers {
		ready.Add(1)
		done.Go(func() {
			c := &hubtest.CutClient{Addr: h.Server.Listener.Addr().String(), Profile: fmt.Sprint(i)}
			c.Run(&ready)
			for _, n := range c.Got {
				chains[i] = sha256.Sum256(fmt.Append(chains[i][:], n))
			}
			if len(c.Got) != publishers*each || c.Connects != 1 {
				faults <- fmt.Errorf("%d events in %d connections, %v", len(c.Got), c.Connects, c.Fault)
			}
		})
	}
	ready.Wait()
	var publishing sync.WaitGroup
	payloads := make(map[int]int) // by the cursor's number
	var mu sync.Mutex
	for p := range publishers {
		publishing.Go(func() {
			for i := range each {
				n := p*each + i
				answer := h.fromOutside().Publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(n))
				place := h.seqOf(t, answer["cursor"].(string))
				mu.Lock()
				payloads[place] = n
				mu.Unlock()
			}
		})
	}
	publishing.Wait()
	h.publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.Equal(len(faults), 0)
	var chain [sha256.Size]byte
	for _, place := range slices.Sorted(maps.Keys(payloads)) {
		chain = sha256.Sum256(fmt.Append(chain[:], payloads[place]))
	}
	for i := range chains {
		is.Equal(chains[i], chain) // the order of the cursors
	}
}

// Who is sent away by a drain will be back: nobody is told that they are offline.
func TestDrainAnnouncesNobody(t *testing.T) {
	alone(t, "it drains one hub")
	is := is.New(t)
	h := newTestHub(t, func(_ *HubConfig, p *PresenceConfig) { p.Audience, p.Grace = settings.AudienceTenant, 0 })
	clients := []*testClient{h.open(t, "tenant=acme&profile=a"), h.open(t, "tenant=acme&profile=b"), h.open(t, "tenant=acme&profile=c")}
	for _, c := range clients[:2] { // c is announced,
		for !strings.Contains(c.until(t, "presence.online").Data, `"id":"c"`) {
		}
	}
	clients[2].close()
	var wg sync.WaitGroup
	offline := make(chan string, 9)
	for _, c := range clients[:2] {
		c.until(t, "presence.offline") // and so is that it left
		wg.Go(func() {
			for {
				event, err := c.read()
				if err != nil {
					return
				}
				if event.Type == "presence.offline" {
					offline <- event.Data
				}
			}
		})
	}
	h.streams.Drain(t.Context(), 500*time.Millisecond) // the second closes 250 ms after the first, 25 ticks
	wg.Wait()
	is.Equal(len(offline), 0)
}

// A publisher that sends lines without end is told which of them were taken.
func TestDrainEndsLines(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	c := h.open(t, "tenant=acme&profile=me")
	body, w := io.Pipe()
	answered := make(chan string, 1)
	go func() {
		res, err := h.client.Post(h.URL+"/v1/events", "application/x-ndjson", body)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		all, _ := io.ReadAll(res.Body)
		answered <- string(all)
	}()
	io.WriteString(w, eventJSON("acme", "a.b", `{"kind":"tenant"}`, "1")+"\n"+`{"tenantId":"ac`)
	c.until(t, "a.b") // the first line was taken; the second never ends
	h.streams.Drain(t.Context(), 0)
	answer := <-answered
	w.Close()
	is.True(strings.HasPrefix(answer, `{"line":2,"code":"Draining",`))
	is.True(strings.Contains(answer, `{"accepted":1,"refused":1,"duplicates":0,"cursor":"`))
}

// Whatever a client brings as its last id, it is answered with a stream that says
// where things go on, and nothing that it brought is repeated.
func FuzzLastEventID(f *testing.F) {
	logger := slog.New(slog.DiscardHandler)
	hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: logger}, PresenceConfig{Audience: settings.AudienceNone}, nil, Reporting{})
	handler := NewAPI(hub, openDoor(f), access.NewRates(access.RatesConfig{}), APIConfig{Logger: logger}).Handler()
	f.Cleanup(func() { hub.streams.Engine().Close(context.Background()) })
	e := historytest.ToAll("1").Event
	receipts, err := hub.Publish(context.Background(), []*event.Event{e})
	if err != nil {
		f.Fatal(err)
	}
	head := receipts[0].Cursor
	first, _ := hub.parse("acme", head)
	start := history.Cursor{Epoch: first.Epoch, Seq: 0}.String()
	for _, seed := range []string{"", head, start, head + "0", "0-0", "\r\n", "\x00", "id: 1\nevent: x", "é", strings.Repeat("9", 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, header := range []bool{true, false} {
			gone, leave := context.WithCancel(t.Context())
			leave() // what is pending is written first
			r := httptest.NewRequestWithContext(gone, "GET", "/v1/stream?tenant=acme&profile=me", nil)
			if header {
				r.Header.Set("Last-Event-ID", text)
			} else {
				r.URL.RawQuery += "&cursor=" + url.QueryEscape(text)
			}
			w := httptest.NewRecorder()
			checked(t, handler).ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Fatalf("%q: %d %s", text, w.Code, w.Body)
			}
			var got []string
			for reader := newStreamReader(t, w.Body); ; {
				event, err := reader.Next()
				if err != nil {
					break
				}
				var data struct{ Resume, Reason, Cursor string }
				json.Unmarshal([]byte(event.Data), &data)
				got = append(got, strings.TrimSpace(event.Type+" "+data.Resume+data.Reason+" "+data.Cursor))
			}
			want := []string{"hub.ready partial " + head, "hub.gap unknown " + head}
			switch text {
			case "":
				want = []string{"hub.ready fresh " + head}
			case head:
				want = []string{"hub.ready complete " + head}
			case start:
				want = []string{"hub.ready complete " + start, "a.b"}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q is answered with %q", text, got)
			}
		}
	})
}
