package outage

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(6)
	hubtest.Main(m)
}

// Short names.
var (
	eventually = testkit.Eventually
	eventJSON  = hubtest.EventJSON
)

// keepsAll is of hubs that keep as much history as the bytes allow, to be read through.
var keepsAll = []string{"REALTIME_HISTORY_EVENTS=0", "REALTIME_ADMIN_RATE=0"}

// hubsOn are hubs that share servers, and keep all.
func hubsOn(t *testing.T, servers *natstest.Processes, replicas, hubs int) (nodes []*hubtest.Program) {
	t.Helper()
	for range hubs {
		nodes = append(nodes, hubtest.Start(t, append(hubtest.Shared(replicas, "test", servers.URLs()), keepsAll...)...))
	}
	return nodes
}

// joinOn is a hub on some servers, on the stores whose names begin with the prefix.
func joinOn(t *testing.T, prefix string, replicas int, urls ...string) *hubtest.Program {
	t.Helper()
	h := hubtest.Start(t, hubtest.Shared(replicas, prefix, urls...)...)
	eventually(t, func() bool { return h.IsReady(t) && publishes(t, h) })
	return h
}

// publishes says whether a publish is taken.
func publishes(t testing.TB, h *hubtest.Program) bool {
	t.Helper()
	status, _ := h.Post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`)
	return status == http.StatusAccepted
}

// faults are how often something of a kind was wrong with the broker.
func faults(t testing.TB, h *hubtest.Program, kind string) float64 {
	t.Helper()
	return h.Metric(t, `realtime_broker_faults_total{fault="`+kind+`"}`)
}

// flood publishes numbered events from many at once, each until it is answered 202,
// by its id; what was answered otherwise it counts.
type flood struct {
	urls   []string
	pause  time.Duration // of each publisher after an answer; 20 ms at least after a refusal
	slow   atomic.Bool   // each publishes once a second
	client *http.Client
	next   atomic.Int64
	stop   chan struct{}
	done   sync.WaitGroup

	mu sync.Mutex
	// Guarded by mu.
	acked    []int
	statuses map[int]int
	slowest  time.Duration
	last     time.Time     // when the last was acknowledged
	quiet    time.Duration // the longest time in which none was
	fault    error
}

func startFlood(t *testing.T, publishers int, pause time.Duration, urls ...string) *flood {
	f := &flood{urls: urls, pause: pause, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: publishers}, Timeout: 10 * time.Second}, stop: make(chan struct{}), statuses: map[int]int{}}
	for range publishers {
		f.done.Go(func() {
			for last := time.Now(); ; {
				select {
				case <-f.stop:
					return
				case <-time.After(pause):
				}
				if !f.slow.Load() || time.Since(last) > time.Second {
					f.publish(int(f.next.Add(1)))
					last = time.Now()
				}
			}
		})
	}
	t.Cleanup(f.client.CloseIdleConnections)
	return f
}

func (f *flood) publish(n int) {
	body := fmt.Sprintf(`{"id":"flood-%d","tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"tenant"}}`, n, n)
	for {
		start := time.Now()
		res, err := f.client.Post(f.urls[rand.IntN(len(f.urls))]+"/v1/events", "application/json", strings.NewReader(body))
		if err != nil { // the hub is down: another may not be
			time.Sleep(5 * time.Millisecond)
			continue
		}
		var answer struct{ ID, Code string }
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		json.Unmarshal(text, &answer)
		f.mu.Lock()
		f.statuses[res.StatusCode]++
		f.slowest = max(f.slowest, time.Since(start))
		if res.StatusCode == http.StatusAccepted {
			f.acked = append(f.acked, n)
			now := time.Now()
			if !f.last.IsZero() {
				f.quiet = max(f.quiet, now.Sub(f.last))
			}
			f.last = now
		} else if res.StatusCode != http.StatusServiceUnavailable || answer.Code != "Draining" && (answer.Code != "Unconfirmed" || answer.ID != fmt.Sprint("flood-", n)) {
			f.fault = fmt.Errorf("%s %s", res.Status, text)
		}
		f.mu.Unlock()
		if res.StatusCode == http.StatusAccepted {
			return
		}
		time.Sleep(max(f.pause, 20*time.Millisecond))
	}
}

// slowly has little published while something takes its time.
func (f *flood) slowly(takes func()) {
	f.slow.Store(true)
	defer f.slow.Store(false)
	takes()
}

// goes waits until so many more are acknowledged.
func (f *flood) goes(t *testing.T, more int) {
	t.Helper()
	before := len(f.answered())
	eventually(t, func() bool { return len(f.answered()) >= before+more })
}

// refused is how many answers were 503.
func (f *flood) refused() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.statuses[http.StatusServiceUnavailable]
}

func (f *flood) answered() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked
}

// end stops publishing, and returns what was acknowledged, sorted.
func (f *flood) end() []int {
	close(f.stop)
	f.done.Wait()
	slices.Sort(f.acked)
	return f.acked
}

// witnesses read all of a tenant, one on each of some hubs.
func witnesses(t *testing.T, hubs ...*hubtest.Program) (all []*hubtest.CutClient, done *sync.WaitGroup) {
	t.Helper()
	var ready sync.WaitGroup
	done = new(sync.WaitGroup)
	for i, hub := range hubs {
		c := &hubtest.CutClient{Addr: hub.Addr, Profile: fmt.Sprint("witness-", i), Patience: 90 * time.Second}
		all = append(all, c)
		ready.Add(1)
		done.Go(func() { c.Run(&ready) })
	}
	ready.Wait()
	return all, done
}

// sawAll checks that clients saw what was acknowledged, each event once, in the order in
// which the history has them; and that cursors are its places.
func sawAll(t *testing.T, hub *hubtest.Hub, acked []int, clients ...*hubtest.CutClient) {
	t.Helper()
	is := is.New(t)
	numbers := func(after string, limit int) (all []int) {
		for _, e := range hub.History(t, "acme", after, limit) {
			if e.Type == "a.b" {
				n, err := strconv.Atoi(string(e.Payload))
				is.NoErr(err)
				all = append(all, n)
			}
		}
		return all
	}
	order := numbers("", 0)
	for _, c := range clients {
		is.NoErr(c.Fault)
		is.Equal(c.Got, order) // each in its place
		got := slices.Sorted(slices.Values(c.Got))
		is.Equal(len(got), len(acked)) // none lost, none twice
		is.Equal(got, acked)
	}
	c := clients[0]
	for _, other := range clients[1:] {
		is.Equal(other.Cursors, c.Cursors) // a place has one text for all
	}
	again := reader{t: t, hub: hub, place: c.Cursors[0]}
	for i, n := range c.Got[1:] {
		event := again.next()
		is.Equal(event.ID, c.Cursors[i+1]) // and the same one whenever it is asked for
		is.Equal(string(hubtest.OpenEnvelope(t, event).Payload), fmt.Sprint(n))
		if i%(len(c.Got)/10) == 0 {
			is.Equal(numbers(c.Cursors[i], 2)[0], n) // what comes behind it
		}
	}
	again.stream.Close()
}

// reader reads a history again. Where its stream ends, as one does of which the history cannot be
// read just then, it comes back.
type reader struct {
	t      *testing.T
	hub    *hubtest.Hub
	place  string
	stream *hubtest.Stream // nil before the first
}

func (r *reader) next() sse.Event {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		if r.stream == nil {
			r.stream = r.hub.Back(r.t, r.place, "tenant=acme&profile=again")
		}
		event, err := r.stream.Read()
		if err == nil && event.Type == "a.b" {
			r.place = event.ID
			return event
		}
		if err != nil {
			if time.Now().After(deadline) {
				r.t.Fatalf("what comes behind %s is not sent: %v", r.place, err)
			}
			r.stream.Close()
			r.stream = nil
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// leaderOf is which server leads the history.
func leaderOf(t *testing.T, servers *natstest.Processes, prefix string) int {
	t.Helper()
	nc, err := nats.Connect(servers.URLs(), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var info struct{ Cluster struct{ Leader string } }
	eventually(t, func() bool {
		msg, err := nc.Request("$JS.API.STREAM.INFO."+prefix+"_journal", nil, time.Second)
		return err == nil && json.Unmarshal(msg.Data, &info) == nil && info.Cluster.Leader != ""
	})
	i, err := strconv.Atoi(strings.TrimPrefix(info.Cluster.Leader, "n"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// lead has a server lead a stream.
func lead(t *testing.T, servers *natstest.Processes, stream string, i int) {
	t.Helper()
	nc, err := nats.Connect(servers.URL(i), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	eventually(t, func() bool {
		if leads(nc, stream, i) {
			return true
		}
		nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, fmt.Appendf(nil, `{"placement":{"preferred":"n%d"}}`, i), time.Second)
		return false
	})
}

// leads says whether a server leads a stream, as far as the one knows that is asked.
func leads(nc *nats.Conn, stream string, i int) bool {
	var info struct{ Cluster struct{ Leader string } }
	msg, err := nc.Request("$JS.API.STREAM.INFO."+stream, nil, time.Second)
	return err == nil && json.Unmarshal(msg.Data, &info) == nil && info.Cluster.Leader == fmt.Sprint("n", i)
}
