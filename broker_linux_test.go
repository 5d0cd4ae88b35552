package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
)

// hubsOn are hubs in this process that share servers in processes of their own.
func hubsOn(t *testing.T, servers *natstest.Processes, replicas, hubs int) (nodes []*testHub, prefix string) {
	t.Helper()
	prefix = newPrefix()
	for range hubs {
		limits := testLimits
		limits.Events = 0
		node := newNode(t, openDoor(t), access.RatesConfig{}, func(history.Limits, bool) *broker.Broker {
			return joinBrokerAt(t, servers.URLs(), replicas, prefix, limits)
		})
		node.nodes = []*testHub{node}
		nodes = append(nodes, node)
	}
	return nodes, prefix
}

// flood publishes numbered events from many at once, each until it is answered 202,
// by its id; what was answered otherwise it counts.
type flood struct {
	urls   []string
	client *http.Client
	next   atomic.Int64
	stop   chan struct{}
	done   sync.WaitGroup

	mu sync.Mutex
	// Guarded by mu.
	acked    []int
	statuses map[int]int
	slowest  time.Duration
	fault    error
}

func startFlood(t *testing.T, publishers int, pause time.Duration, urls ...string) *flood {
	f := &flood{urls: urls, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: publishers}, Timeout: 10 * time.Second}, stop: make(chan struct{}), statuses: map[int]int{}}
	for range publishers {
		f.done.Go(func() {
			for {
				select {
				case <-f.stop:
					return
				case <-time.After(pause):
				}
				f.publish(int(f.next.Add(1)))
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
		} else if res.StatusCode == http.StatusServiceUnavailable && answer.Code != "Draining" && (answer.Code != "Unconfirmed" || answer.ID != fmt.Sprint("flood-", n)) {
			f.fault = fmt.Errorf("%s", text)
		}
		f.mu.Unlock()
		if res.StatusCode == http.StatusAccepted {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// end stops publishing, and returns what was acknowledged, sorted.
func (f *flood) end() []int {
	close(f.stop)
	f.done.Wait()
	slices.Sort(f.acked)
	return f.acked
}

// witnesses read all of a tenant, one on each of some addresses.
func witnesses(t *testing.T, addrs ...string) (all []*cutClient, done *sync.WaitGroup) {
	t.Helper()
	var ready sync.WaitGroup
	done = new(sync.WaitGroup)
	for i, addr := range addrs {
		c := &cutClient{addr: addr, profile: fmt.Sprint("witness-", i), patience: 90 * time.Second}
		all = append(all, c)
		ready.Add(1)
		done.Go(func() { c.run(&ready) })
	}
	ready.Wait()
	return all, done
}

// saw checks that a client saw what was published, each once, in the order of places.
func saw(t *testing.T, log history.Log, c *cutClient, acked []int) {
	t.Helper()
	is := is.New(t)
	is.NoErr(c.fault)
	var places []uint64
	for _, text := range c.cursors {
		cursor, ok := epochOf(log, "acme").Parse(text)
		is.True(ok)
		places = append(places, cursor.Seq)
	}
	is.True(slices.IsSorted(places))
	got := slices.Sorted(slices.Values(c.got))
	is.Equal(len(got), len(acked)) // none lost, none twice
	is.Equal(got, acked)
}

func addrOf(h *testHub) string { return h.Server.Listener.Addr().String() }

// leaderOf is which server leads a stream.
func leaderOf(t *testing.T, servers *natstest.Processes, prefix string) int {
	t.Helper()
	nc, err := nats.Connect(servers.URLs())
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

// The broker is killed again and again while many publish: what was acknowledged
// reaches everybody once, in one order, on streams that never ended.
func TestBrokerKilled(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	kills := 20
	if testing.Short() {
		kills = 3
	}
	servers := natstest.StartProcesses(t, 1)
	nodes, _ := hubsOn(t, servers, 1, 2)
	all, done := witnesses(t, addrOf(nodes[0]), addrOf(nodes[1]))
	f := startFlood(t, 16, time.Millisecond, nodes[0].URL, nodes[1].URL)
	for range kills {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+100 })
		servers.Kill(0)
		servers.Start(t, 0)
	}
	acked := f.end()
	nodes[0].publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	for _, c := range all {
		saw(t, nodes[0].log, c, acked)
		is.Equal(c.connects, 1)
	}
	is.Equal(all[0].got, all[1].got) // one order
	t.Logf("%d acknowledged, answers %v, the slowest in %v", len(acked), f.statuses, f.slowest)
	is.True(f.slowest < 2*time.Second)
}

func (f *flood) answered() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked
}

// With three replicas the stream's leader may die: nothing acknowledged is lost.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	servers := natstest.StartProcesses(t, 3)
	nodes, prefix := hubsOn(t, servers, 3, 2)
	all, done := witnesses(t, addrOf(nodes[0]), addrOf(nodes[1]))
	f := startFlood(t, 16, time.Millisecond, nodes[0].URL, nodes[1].URL)
	for range 2 {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+200 })
		leader := leaderOf(t, servers, prefix)
		servers.Kill(leader)
		start, before := time.Now(), len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+20 }) // another leads
		t.Logf("another leader acknowledges after %v", time.Since(start))
		servers.Start(t, leader)
		servers.Await(t, leader)
	}
	acked := f.end()
	nodes[0].publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	for _, c := range all {
		saw(t, nodes[0].log, c, acked)
	}
	is.Equal(all[0].got, all[1].got)
	t.Logf("%d acknowledged, answers %v, the slowest in %v", len(acked), f.statuses, f.slowest)
}

// A broker that stands still for 30 s: no answer that is not true, streams stay, and
// when it goes on all have caught up within 5 s.
func TestBrokerStands(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	still := 30 * time.Second
	if testing.Short() {
		still = 5 * time.Second
	}
	servers := natstest.StartProcesses(t, 1)
	nodes, _ := hubsOn(t, servers, 1, 2)
	all, done := witnesses(t, addrOf(nodes[0]), addrOf(nodes[1]))
	f := startFlood(t, 4, 5*time.Millisecond, nodes[0].URL, nodes[1].URL)
	eventually(t, func() bool { return len(f.answered()) > 100 })
	servers.Signal(0, syscall.SIGSTOP)
	stopped := time.Now()
	eventually(t, func() bool {
		status, _ := nodes[0].do(t, "GET", "/readyz", "")
		return status == http.StatusServiceUnavailable
	})
	t.Logf("not ready after %v", time.Since(stopped))
	status, answer := nodes[1].post(t, "/v1/events", `{"tenantId":"acme","type":"a.c","payload":1,"target":{"kind":"profile","profiles":["nobody"]}}`)
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "Unconfirmed")
	is.True(answer["id"] != nil) // the hub's own
	before := len(f.answered())  // those that were under way are among them
	time.Sleep(still - time.Since(stopped))
	is.Equal(len(f.answered()), before) // not one false 202
	servers.Signal(0, syscall.SIGCONT)
	resumed := time.Now()
	eventually(t, func() bool { return len(f.answered()) > before+20 })
	back := time.Since(resumed)
	acked := f.end()
	nodes[0].publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	t.Logf("acknowledged again after %v, all caught up after %v; answers %v, the slowest in %v", back, time.Since(resumed), f.statuses, f.slowest)
	is.NoErr(f.fault)
	is.True(f.slowest < 2*time.Second)
	is.True(back < 5*time.Second)
	for _, c := range all {
		is.Equal(c.connects, 1) // its stream stayed
		saw(t, nodes[0].log, c, acked)
	}
	is.Equal(all[0].got, all[1].got)
}

// Clients resume on a hub of chance while hubs are killed, and drained and started
// again: nothing acknowledged is lost, nothing comes twice, all see one order.
func TestClusterStorm(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	clients, rounds := 200, 8
	if testing.Short() {
		clients, rounds = 50, 3
	}
	servers := natstest.StartProcesses(t, 1)
	binary := buildHub(t)
	var addrs, urls []string
	hubs := make([]*process, 3)
	start := func(i int) {
		hubs[i] = startBinary(t, binary, "REALTIME_ADDR="+addrs[i], "REALTIME_NATS_URL="+servers.URLs(), "REALTIME_HISTORY_EVENTS=0", "REALTIME_DRAIN=300ms", "REALTIME_RETRY=10ms")
	}
	for i := range hubs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		is.NoErr(err)
		addrs = append(addrs, l.Addr().String())
		urls = append(urls, "http://"+addrs[i])
		l.Close()
		start(i)
	}
	all := make([]*cutClient, clients)
	var ready, done sync.WaitGroup
	for i := range all {
		all[i] = &cutClient{anyOf: addrs, profile: fmt.Sprint(i)}
		ready.Add(1)
		done.Go(func() { all[i].run(&ready) })
	}
	ready.Wait()
	f := startFlood(t, 16, 5*time.Millisecond, urls...)
	for round := range rounds {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+200 })
		for range clients / 2 {
			all[rand.IntN(clients)].cut(rand.IntN(2) == 0)
		}
		if i := round % 3; round%2 == 0 {
			hubs[i].kill()
			start(i)
		} else {
			hubs[i].end() // drains
			start(i)
		}
	}
	acked := f.end()
	res, err := checkedClient(t, nil).Post(urls[0]+"/v1/events", "application/json", strings.NewReader(eventJSON("acme", "end", `{"kind":"tenant"}`, "0")))
	is.NoErr(err)
	res.Body.Close()
	is.Equal(res.StatusCode, http.StatusAccepted)
	done.Wait()
	is.NoErr(f.fault)
	resumes := 0
	limits := testLimits
	limits.Events = 0
	log := newNode(t, openDoor(t), access.RatesConfig{}, func(history.Limits, bool) *broker.Broker { // one more, that can read cursors
		return joinBrokerAt(t, servers.URLs(), 1, "realtime", limits)
	}).log
	for _, c := range all {
		saw(t, log, c, acked)
		is.Equal(c.got, all[0].got)
		is.Equal(c.resumes["fresh"], 1)
		is.Equal(c.resumes["partial"], 0)
		resumes += c.resumes["complete"]
	}
	t.Logf("%d clients resumed %d times, %d acknowledged, answers %v", clients, resumes, len(acked), f.statuses)
	http.DefaultClient.CloseIdleConnections()
}

// A hub that is cut off from the broker and the others says so, tells its streams of
// nobody's leaving, and is one of them again when it is back.
func TestPartition(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	near, far, ip := cabled(t, "198.18.1.1/30", "198.18.1.2/30")
	binary := buildHub(t)
	enter(t, near)
	servers := natstest.StartProcessesOn(t, "198.18.1.1", 1)
	settings := []string{"REALTIME_NATS_URL=" + servers.URLs(), "REALTIME_PRESENCE_AUDIENCE=tenant", "REALTIME_PRESENCE_GRACE=1s"}
	here := startBinary(t, binary, settings...)
	nearUser := listen(t, here.addr, "near")
	enter(t, far)
	there := startBinary(t, binary, settings...)
	farUser := listen(t, there.addr, "far")
	farUser.until(t, "presence.online far")
	enter(t, near)
	nearUser.until(t, "presence.online far")
	is.Equal(ask202(t, here.addr, 1), http.StatusAccepted)
	nearUser.until(t, "a.b 1")
	farUser.until(t, "a.b 1")

	ip("link set cable down")
	cut := time.Now()
	enter(t, far)
	eventually(t, func() bool { return statusOf(t, there.addr, "/readyz") == http.StatusServiceUnavailable })
	t.Logf("the hub that is cut off is not ready after %v", time.Since(cut))
	is.Equal(ask202(t, there.addr, 99), http.StatusServiceUnavailable)
	enter(t, near)
	for n := 2; n < 12; n++ {
		is.Equal(ask202(t, here.addr, n), http.StatusAccepted)
	}
	nearUser.until(t, "presence.offline far") // it may be dead, as far as anybody here knows
	gone := time.Since(cut)
	t.Logf("its people are offline for the others after %v", gone)
	is.True(gone < 15*time.Second)

	ip("link set cable up")
	back := time.Now()
	nearUser.until(t, "presence.online far")
	farUser.until(t, "a.b 11")
	t.Logf("caught up %v after the cable was back", time.Since(back))
	is.Equal(ask202(t, here.addr, 12), http.StatusAccepted)
	farUser.until(t, "a.b 12")
	nearUser.until(t, "a.b 12")
	enter(t, far)
	eventually(t, func() bool { return statusOf(t, there.addr, "/readyz") == http.StatusOK })
	var events []string
	for n := 1; n <= 12; n++ {
		events = append(events, fmt.Sprint("a.b ", n))
	}
	only := func(all []string, prefix string) (some []string) {
		for _, s := range all {
			if strings.HasPrefix(s, prefix) {
				some = append(some, s)
			}
		}
		return some
	}
	is.Equal(only(farUser.seen, "a.b"), events) // each once, in one order
	is.Equal(only(nearUser.seen, "a.b"), events)
	is.Equal(only(farUser.seen, "presence.offline"), nil)                               // nobody was said to have left
	is.Equal(only(nearUser.seen, "presence.offline"), []string{"presence.offline far"}) // but who could not be seen
	is.Equal(only(farUser.seen, "presence.online near"), only(nil, ""))                 // it was there before
	is.Equal(only(nearUser.seen, "presence.online far"), []string{"presence.online far", "presence.online far"})
}

// listener reads a stream in the background.
type listener struct {
	seen []string // what until has passed, as "type payload" or "type profile"
	all  chan string
}

func listen(t *testing.T, addr, profile string) *listener {
	t.Helper()
	l := &listener{all: make(chan string, 1000)}
	conn := subscribe(t, addr, profile)
	go func() {
		reader := newStreamReader(t, conn)
		for {
			ev, err := reader.Next()
			if err != nil {
				close(l.all)
				return
			}
			var e struct{ Payload json.RawMessage }
			json.Unmarshal([]byte(ev.Data), &e)
			var about struct{ Profile event.Profile }
			word := string(e.Payload)
			if json.Unmarshal(e.Payload, &about) == nil {
				word = about.Profile.ID
			}
			l.all <- ev.Type + " " + word
		}
	}()
	return l
}

// until reads on to a certain event.
func (l *listener) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case word, open := <-l.all:
			if !open {
				t.Fatalf("the stream has ended before %q, after %q", want, l.seen)
			}
			l.seen = append(l.seen, word)
			if word == want {
				return
			}
		case <-deadline:
			t.Fatalf("no %q, but %q", want, l.seen)
		}
	}
}

// ask202 publishes a number to all, and returns the status. It dials in the thread's
// network, as http.Client's goroutines would not.
func ask202(t *testing.T, addr string, n int) int {
	t.Helper()
	body := eventJSON("acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(n))
	return rawStatus(t, addr, fmt.Sprintf("POST /v1/events HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", addr, len(body), body))
}

func statusOf(t *testing.T, addr, path string) int {
	t.Helper()
	return rawStatus(t, addr, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, addr))
}

func rawStatus(t *testing.T, addr, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	text, err := io.ReadAll(conn)
	if err != nil || len(text) < 12 {
		t.Fatalf("%q: %v", text, err)
	}
	status, _ := strconv.Atoi(string(text[9:12]))
	return status
}

// A thousand tenants on three hubs: each is taken up in milliseconds, an idle hub
// costs next to nothing, and what is published costs the broker little more than
// with nobody there.
func TestManyTenants(t *testing.T) {
	alone(t, "it makes its own")
	is := is.New(t)
	tenants := 1000
	if testing.Short() {
		tenants = 100
	}
	servers := natstest.StartProcesses(t, 1)
	prefix := newPrefix()
	var brokers []*broker.Broker
	for range 3 {
		brokers = append(brokers, joinBrokerAt(t, servers.URL(0), 1, prefix, testLimits))
	}
	publish := func(n int) time.Duration { // the broker's CPU time for each
		before := cpuTime(t, servers.PID(0))
		for i := range n {
			e := historytest.To(fmt.Sprint("tenant-", i%tenants), "1", event.ToTenant())
			e.Event.ID = fmt.Sprint(prefix, i, before)
			e.Event.Timestamp = time.Now()
			e.Envelope = e.Event.Seal()
			is.NoErr(brokers[i%3].Log().Append(context.Background(), []*history.Entry{e}))
		}
		return (cpuTime(t, servers.PID(0)) - before) / time.Duration(n)
	}
	publish(tenants) // warm
	without := publish(5 * tenants)
	start := time.Now()
	for _, b := range brokers {
		var wg sync.WaitGroup
		for i := range tenants {
			wg.Go(func() {
				name := fmt.Sprint("tenant-", i)
				if _, err := b.Log().Attach(context.Background(), name); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	each := time.Since(start) / time.Duration(3*tenants)
	with := publish(5 * tenants)
	// Nothing is to happen from now on, once what was published has been looked through.
	const quiet = 3 * time.Second
	own, broker := quiet, quiet
	for range 5 {
		own0, broker0 := cpuTime(t, os.Getpid()), cpuTime(t, servers.PID(0))
		time.Sleep(quiet)
		own, broker = cpuTime(t, os.Getpid())-own0, cpuTime(t, servers.PID(0))-broker0
		if own < quiet/20 && broker < quiet/20 {
			break
		}
	}
	t.Logf("%d tenants on 3 hubs: attached in %v each; broker's CPU a publish %v, without %v; idle for %v: hubs %v, broker %v", tenants, each, with, without, quiet, own, broker)
	is.True(each < 5*time.Millisecond)
	is.True(with <= 3*without)
	is.True(own < quiet/20)
	is.True(broker < quiet/20)
}

// cpuTime is what a process has spent so far, by its own accounting.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}
