package outage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// receipt names an event and one of its recipients.
type receipt struct{ event, profile string }

// ledger is what clients and services know: who acknowledged what, and who was reported.
type ledger struct {
	mu sync.Mutex
	// Guarded by mu.
	owed     map[receipt]bool      // of events that were accepted
	acked    map[receipt]time.Time // when a hub had answered 204
	by       map[receipt]string    // which one
	killed   []kill
	reported map[receipt]time.Time // the first time
	deadline map[string]time.Time  // by event
}

// kill is a hub's.
type kill struct {
	url string
	at  time.Time
}

// unkept is how long a hub may not have kept what it was told, so that it is lost in a kill.
const unkept = 2 * time.Second

func newLedger() *ledger {
	return &ledger{owed: map[receipt]bool{}, by: map[receipt]string{}, acked: map[receipt]time.Time{}, reported: map[receipt]time.Time{}, deadline: map[string]time.Time{}}
}

// acker is a client that acknowledges: it handles each event once, acknowledges now and then,
// and comes back with the place of what it has handled.
type acker struct {
	t       *testing.T
	profile string
	frozen  bool // it reads and handles nothing
	addrs   []string
	book    *ledger
	client  *http.Client
	cut     atomic.Pointer[context.CancelFunc]

	// Owned by run.
	cursor  string
	handled []string // events since the last acknowledgement
	seen    map[string]bool
	twice   int
}

// run reads until ctx ends.
func (a *acker) run(ctx context.Context) {
	for ctx.Err() == nil {
		once, cancel := context.WithCancel(ctx)
		a.cut.Store(&cancel)
		a.stream(once, "http://"+a.addrs[rand.IntN(len(a.addrs))])
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (a *acker) stream(ctx context.Context, url string) {
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/stream?tenant=acme&ack=true&profile="+a.profile, nil)
	r.Header.Set("Last-Event-ID", a.cursor)
	res, err := a.client.Do(r)
	if err != nil {
		return
	}
	defer res.Body.Close()
	a.handled = nil // on another connection they cannot be acknowledged but by the cursor
	connection, reader := "", hubtest.NewReader(a.t, res.Body)
	for {
		event, err := reader.Next()
		if err != nil {
			return
		}
		switch event.Type {
		case "hub.ready":
			var ready struct{ ConnectionID, Resume string }
			json.Unmarshal([]byte(event.Data), &ready)
			connection = ready.ConnectionID
			if a.cursor == "" {
				a.cursor = event.ID
			}
		case "a.b":
			if a.frozen {
				continue
			}
			var envelope struct{ ID string }
			json.Unmarshal([]byte(event.Data), &envelope)
			if a.seen[envelope.ID] {
				a.twice++
			}
			a.seen[envelope.ID], a.cursor = true, event.ID
			a.handled = append(a.handled, envelope.ID)
			if rand.IntN(4) == 0 {
				a.acknowledge(ctx, url, connection)
			}
		}
	}
}

// acknowledge says how far the client has come.
func (a *acker) acknowledge(ctx context.Context, url, connection string) {
	body := strings.NewReader(`{"cursor":"` + a.cursor + `"}`)
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/connections/"+connection+"/ack", body)
	r.Header.Set("Content-Type", "application/json")
	res, err := a.client.Do(r)
	if err != nil {
		return
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return
	}
	now := time.Now()
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	for _, id := range a.handled {
		if key := (receipt{id, a.profile}); a.book.acked[key].IsZero() {
			a.book.acked[key], a.book.by[key] = now, url
		}
	}
	a.handled = nil
}

// endpoint takes webhooks, half of them; none while it is away.
type endpoint struct {
	book  *ledger
	away  atomic.Bool
	took  atomic.Int64
	fails atomic.Int64
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if e.away.Load() || rand.IntN(2) == 0 {
		e.fails.Add(1)
		http.Error(w, "not now", http.StatusInternalServerError)
		return
	}
	e.took.Add(1)
	e.book.take(body)
}

// take notes who is reported in a batch, or in a page of the outbox.
func (l *ledger) take(body []byte) {
	type item struct {
		Type string
		Data struct {
			Event    struct{ ID string }
			Profiles []struct{ Profile struct{ ID string } }
		}
	}
	var batch struct {
		Data  struct{ Items []item }
		Items []item
	}
	json.Unmarshal(body, &batch)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, item := range append(batch.Data.Items, batch.Items...) {
		for _, p := range item.Data.Profiles {
			if key := (receipt{item.Data.Event.ID, p.Profile.ID}); l.reported[key].IsZero() {
				l.reported[key] = now
			}
		}
	}
}

// Every event is acknowledged by each of its recipients or reported, while clients are cut,
// hubs and the broker are killed, and the webhook's endpoint fails.
func TestAcknowledgedOrReported(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	clients, rounds, lasts := 200, 9, 6*time.Second
	if testing.Short() {
		clients, rounds = 60, 4
	}
	book := newLedger()
	hook := &endpoint{book: book}
	receiver := httptest.NewServer(hook)
	t.Cleanup(receiver.Close)
	servers := natstest.StartProcesses(t, 1)
	var addrs []string
	hubs := make([]*hubtest.Program, 3)
	start := func(i int) {
		hubs[i] = hubtest.Start(t, append(append(hubtest.Shared(1, "test", servers.URLs()), keepsAll...), "REALTIME_ADDR="+addrs[i],
			"REALTIME_DRAIN=300ms", "REALTIME_RETRY=10ms", "REALTIME_ACK_TIMEOUT=2s", "REALTIME_CLIENT_RATE=0",
			"REALTIME_WEBHOOK_URL="+receiver.URL, "REALTIME_WEBHOOK_SECRET=whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "REALTIME_WEBHOOK_TYPES=event.undelivered")...)
	}
	for i := range hubs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		is.NoErr(err)
		addrs = append(addrs, l.Addr().String())
		l.Close()
		start(i)
	}
	ctx, stop := context.WithCancel(t.Context())
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	t.Cleanup(client.CloseIdleConnections)
	all := make([]*acker, clients)
	var running sync.WaitGroup
	for i := range all {
		all[i] = &acker{t: t, profile: fmt.Sprint("p", i), frozen: i%10 == 0, addrs: addrs, book: book, client: client, seen: map[string]bool{}}
		running.Go(func() { all[i].run(ctx) })
	}
	publishing, enough := context.WithCancel(ctx)
	var publishers sync.WaitGroup
	for n := range 4 {
		publishers.Go(func() { book.publish(publishing, client, addrs, all, n, lasts) })
	}
	for round := range rounds {
		before := book.accepted()
		eventually(t, func() bool { return book.accepted() >= before+30 })
		for range clients / 4 {
			if cut := all[rand.IntN(clients)].cut.Load(); cut != nil {
				(*cut)()
			}
		}
		hook.away.Store(round%3 == 1)
		switch i := round % 3; {
		case round%4 == 3:
			servers.Kill(0)
			servers.Start(t, 0)
		case round%2 == 0:
			hubs[i].Kill()
			book.kills("http://" + addrs[i])
			start(i)
		default:
			hubs[i].Stop()
			start(i)
		}
	}
	hook.away.Store(false)
	enough()
	publishers.Wait()
	// What the webhook has not had yet, since it is tried again after minutes only, is asked for.
	left := map[string]bool{}
	t.Cleanup(func() {
		for event := range left {
			_, answer := hubs[0].Do(t, "GET", "/v1/tenants/acme/events/"+event+"/receipts", "")
			t.Logf("%s: %v", event, answer)
			break
		}
	})
	eventually(t, func() bool {
		_, page := hubs[0].Do(t, "GET", "/v1/tenants/acme/outbox?limit=1000", "")
		text, _ := json.Marshal(page)
		book.take(text)
		left = book.neither()
		for event := range left { // some came back with a cursor, which acknowledges as well
			book.ask(t, &hubs[0].Hub, event)
		}
		return len(left) == 0
	})
	stop()
	running.Wait()
	acked, reported, lost, wrong := book.count()
	twice := 0
	for _, a := range all {
		twice += a.twice
	}
	t.Logf("%d events, %d acknowledged, %d reported; of these %d were acknowledged at a hub that was killed then, and %d at one that was not; webhook took %d, failed %d; handled twice %d",
		book.accepted(), acked, reported, lost, wrong, hook.took.Load(), hook.fails.Load(), twice)
	is.True(reported > 0)
	is.True(acked > 0)
	is.Equal(wrong, 0)
}

// publish publishes events for some clients and for somebody who is never there.
func (l *ledger) publish(ctx context.Context, client *http.Client, addrs []string, all []*acker, publisher int, lasts time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("e%d-%d", publisher, n)
		profiles := []string{"nobody"}
		for range 5 {
			profiles = append(profiles, all[rand.IntN(len(all))].profile)
		}
		slices.Sort(profiles)
		profiles = slices.Compact(profiles)
		list, _ := json.Marshal(profiles)
		body := fmt.Sprintf(`{"id":%q,"tenantId":"acme","type":"a.b","payload":1,"deadline":"%v","target":{"kind":"profiles","profiles":%s}}`, id, lasts, list)
		for { // until it is accepted, by its id, as a service does
			res, err := client.Post("http://"+addrs[rand.IntN(len(addrs))]+"/v1/events", "application/json", strings.NewReader(body))
			if err == nil {
				var answer struct{ Timestamp time.Time }
				json.NewDecoder(res.Body).Decode(&answer)
				res.Body.Close()
				if res.StatusCode == http.StatusAccepted {
					l.mu.Lock()
					l.deadline[id] = answer.Timestamp.Add(lasts)
					for _, p := range profiles {
						l.owed[receipt{id, p}] = true
					}
					l.mu.Unlock()
					break
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *ledger) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.deadline)
}

// neither are events that somebody has not acknowledged who is not reported, as far as is known.
func (l *ledger) neither() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := map[string]bool{}
	for key := range maps.Keys(l.owed) {
		if l.acked[key].IsZero() && l.reported[key].IsZero() {
			events[key.event] = true
		}
	}
	return events
}

// ask has a hub say who has acknowledged an event.
func (l *ledger) ask(t *testing.T, h *hubtest.Hub, event string) {
	t.Helper()
	_, answer := h.Do(t, "GET", "/v1/tenants/acme/events/"+event+"/receipts", "")
	list, _ := answer["receipts"].([]any)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range list {
		r := r.(map[string]any)
		if key := (receipt{event, r["profile"].(map[string]any)["id"].(string)}); r["state"] == "acknowledged" && l.acked[key].IsZero() {
			l.acked[key], _ = time.Parse(time.RFC3339, r["at"].(string))
		}
	}
}

func (l *ledger) kills(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killed = append(l.killed, kill{url, time.Now()})
}

// count also counts those who were reported although a hub had answered their acknowledgement
// before the deadline: because it was killed then, and for no reason.
func (l *ledger) count() (acked, reported, lost, wrong int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, at := range l.acked {
		if l.reported[key].IsZero() || !at.Before(l.deadline[key.event]) {
			continue
		}
		if slices.ContainsFunc(l.killed, func(k kill) bool { return k.url == l.by[key] && k.at.After(at) && k.at.Sub(at) < unkept }) {
			lost++
		} else {
			wrong++
		}
	}
	return len(l.acked), len(l.reported), lost, wrong
}
