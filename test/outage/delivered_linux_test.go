package outage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
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
	acks    int // that were taken
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
	asked := time.Now()
	res, err := a.client.Do(r)
	if err != nil {
		return
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	switch res.StatusCode {
	case http.StatusNoContent:
		a.acks++
	case http.StatusNotFound, http.StatusServiceUnavailable: // the connection has ended, or the broker is away
		return
	default:
		a.t.Errorf("an acknowledgement is answered %s", res.Status)
		return
	}
	now := time.Now()
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	for _, id := range a.handled {
		if key := (receipt{id, a.profile}); a.book.acked[key].at.IsZero() {
			a.book.acked[key] = acknowledgement{hub: url, asked: asked, at: now}
		}
	}
	a.handled = nil
}

// endpoint takes webhooks, half of them; while it is away none, and nobody is answered.
type endpoint struct {
	book   *ledger
	away   atomic.Bool
	took   atomic.Int64
	fails  atomic.Int64
	missed atomic.Int64
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if e.away.Load() {
		e.missed.Add(1)
		panic(http.ErrAbortHandler)
	}
	if rand.IntN(2) == 0 {
		e.fails.Add(1)
		w.Header().Set("Retry-After", "1") // or the hub would come again after minutes
		http.Error(w, "not now", http.StatusServiceUnavailable)
		return
	}
	e.took.Add(1)
	e.book.take(body)
}

// Every event is acknowledged by each of its recipients or reported, while clients are cut,
// hubs and the broker are killed, and the webhook's endpoint fails and is away for a minute.
func TestAcknowledgedOrReported(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const lasts = 6 * time.Second
	clients, rounds := 200, 11
	leaves, back, away := 2, 8, time.Minute // the rounds when the endpoint does, and the time between them
	if testing.Short() {
		clients, rounds = 60, 4
		leaves, back, away = 2, 3, time.Second
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
		addrs = append(addrs, fmt.Sprint("127.0.0.1:", natstest.FreePort(t)))
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
	part := time.NewTicker(away / time.Duration(back-leaves)) // of the time that it is away, for each round
	defer part.Stop()
	var since time.Time
	var took int64 // before it was back
	for round := range rounds {
		if leaves < round && round <= back {
			<-part.C
		}
		switch round {
		case leaves:
			hook.away.Store(true)
			since = time.Now()
			part.Reset(away / time.Duration(back-leaves))
		case back:
			eventually(t, func() bool { return hook.missed.Load() > 0 })
			took = hook.took.Load()
			hook.away.Store(false)
			t.Logf("the webhook's endpoint was away for %v", time.Since(since))
		}
		before := book.accepted()
		eventually(t, func() bool { return book.accepted() >= before+30 })
		for range clients / 4 {
			if cut := all[rand.IntN(clients)].cut.Load(); cut != nil {
				(*cut)()
			}
		}
		switch i := round % 3; {
		case round%4 == 3:
			servers.Kill(0)
			servers.Start(t, 0)
		case round%2 == 0:
			book.kills("http://"+addrs[i], hubs[i].Kill)
			start(i)
		default:
			hubs[i].Stop()
			start(i)
		}
	}
	enough()
	publishers.Wait()
	if !testing.Short() { // all hubs were restarted since it is back, so none waits for minutes
		eventually(t, func() bool { return hook.took.Load() > took })
	}
	// What the webhook has not had yet is asked for.
	left := map[string]bool{}
	t.Cleanup(func() {
		for event := range left {
			_, answer := hubs[0].Do(t, "GET", "/v1/tenants/acme/events/"+event+"/receipts", "")
			t.Logf("%s: %v", event, answer)
			break
		}
	})
	asked := 0.0
	for until := time.Now().Add(5 * time.Minute); ; {
		asked = book.pull(t, &hubs[0].Hub, asked)
		if left = book.neither(); len(left) == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("some have neither acknowledged nor been reported")
		}
		some := 0
		for event := range left { // some came back with a cursor, which acknowledges as well
			book.ask(t, &hubs[0].Hub, event)
			if some++; some == 20 { // the outbox has others by now
				break
			}
		}
	}
	stop()
	running.Wait()
	acked, reported, lost, wrong := book.count()
	twice, acks := 0, 0
	for _, a := range all {
		twice, acks = twice+a.twice, acks+a.acks
	}
	t.Logf("%d events, %d acknowledged, %d reported; of these %d were acknowledged at a hub that was killed then, and %d at one that was not; webhook took %d, failed %d, missed %d; handled twice %d",
		book.accepted(), acked, reported, lost, wrong, hook.took.Load(), hook.fails.Load(), hook.missed.Load(), twice)
	is.True(reported > 0)
	is.True(acked > 0)
	is.True(acks > 0) // not by cursors alone
	is.Equal(wrong, 0)
	is.Equal(twice, 0)
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
		time.Sleep(100 * time.Millisecond)
	}
}
