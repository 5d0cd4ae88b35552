package outage

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// The broker is killed again and again while many publish: what was acknowledged
// reaches everybody once, in one order, on streams that never ended.
func TestBrokerKilled(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	kills := 20
	if testing.Short() {
		kills = 3
	}
	servers := natstest.StartProcesses(t, 1)
	nodes := hubsOn(t, servers, 1, 2)
	all, done := witnesses(t, nodes...)
	f := startFlood(t, 16, time.Millisecond, nodes[0].URL, nodes[1].URL)
	for range kills {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+100 })
		servers.Kill(0)
		servers.Start(t, 0)
	}
	acked := f.end()
	nodes[0].Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	sawAll(t, &nodes[0].Hub, acked, all...)
	for _, c := range all {
		is.Equal(c.Connects, 1)
	}
	is.Equal(all[0].Got, all[1].Got) // one order
	t.Logf("%d acknowledged, answers %v, the slowest in %v", len(acked), f.statuses, f.slowest)
}

// With three replicas the stream's leader may die: nothing acknowledged is lost.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	servers := natstest.StartProcesses(t, 3)
	nodes := hubsOn(t, servers, 3, 2)
	all, done := witnesses(t, nodes...)
	f := startFlood(t, 16, time.Millisecond, nodes[0].URL, nodes[1].URL)
	for range 2 {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+200 })
		leader := leaderOf(t, servers, "test")
		servers.Kill(leader)
		start, before := time.Now(), len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+20 }) // another leads
		t.Logf("another leader acknowledges after %v", time.Since(start))
		servers.Start(t, leader)
		servers.Await(t, leader)
	}
	acked := f.end()
	nodes[0].Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	sawAll(t, &nodes[0].Hub, acked, all...)
	is.Equal(all[0].Got, all[1].Got)
	t.Logf("%d acknowledged, answers %v, the slowest in %v", len(acked), f.statuses, f.slowest)
}

// A broker stands still: whoever publishes is answered all the same, and nothing that is not
// true; streams stay; and when it goes on all catch up.
func TestBrokerStands(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	refusals := 60 // of the flood, before the broker goes on
	if testing.Short() {
		refusals = 12
	}
	servers := natstest.StartProcesses(t, 1)
	nodes := hubsOn(t, servers, 1, 2)
	all, done := witnesses(t, nodes...)
	f := startFlood(t, 4, 5*time.Millisecond, nodes[0].URL, nodes[1].URL)
	eventually(t, func() bool { return len(f.answered()) > 100 })
	testkit.Pause(t, servers.PID(0))
	stopped := time.Now()
	eventually(t, func() bool {
		status, _ := nodes[0].Do(t, "GET", "/readyz", "")
		return status == http.StatusServiceUnavailable
	})
	t.Logf("not ready after %v", time.Since(stopped))
	status, answer := nodes[1].Post(t, "/v1/events", `{"tenantId":"acme","type":"a.c","payload":1,"target":{"kind":"profile","profiles":["nobody"]}}`)
	is.Equal(status, http.StatusServiceUnavailable)
	is.Equal(answer["code"], "Unconfirmed")
	is.True(answer["id"] != nil) // the hub's own
	before := len(f.answered())  // those that were under way are among them
	refused := f.refused()
	eventually(t, func() bool { return f.refused() >= refused+refusals })
	is.Equal(len(f.answered()), before) // not one false 202
	servers.Signal(0, syscall.SIGCONT)
	resumed := time.Now()
	eventually(t, func() bool { return len(f.answered()) > before+20 })
	back := time.Since(resumed)
	acked := f.end()
	nodes[0].Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	t.Logf("acknowledged again after %v, all caught up after %v; answers %v, the slowest in %v", back, time.Since(resumed), f.statuses, f.slowest)
	is.NoErr(f.fault)
	sawAll(t, &nodes[0].Hub, acked, all...)
	for _, c := range all {
		is.Equal(c.Connects, 1) // its stream stayed
	}
	is.Equal(all[0].Got, all[1].Got)
}

// Clients resume on a hub of chance while hubs are killed, and drained and started
// again: nothing acknowledged is lost, nothing comes twice, all see one order.
func TestClusterStorm(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	clients, rounds := 200, 8
	if testing.Short() {
		clients, rounds = 50, 3
	}
	servers := natstest.StartProcesses(t, 1)
	var addrs, urls []string
	hubs := make([]*hubtest.Program, 3)
	start := func(i int) {
		settings := append(hubtest.Shared(1, "test", servers.URLs()), "REALTIME_ADDR="+addrs[i], "REALTIME_DRAIN=300ms", "REALTIME_RETRY=10ms")
		hubs[i] = hubtest.Start(t, append(settings, keepsAll...)...)
	}
	for i := range hubs {
		addrs = append(addrs, fmt.Sprint("127.0.0.1:", natstest.FreePort(t)))
		urls = append(urls, "http://"+addrs[i])
		start(i)
	}
	all := make([]*hubtest.CutClient, clients)
	var ready, done sync.WaitGroup
	for i := range all {
		all[i] = &hubtest.CutClient{AnyOf: addrs, Profile: fmt.Sprint(i)}
		ready.Add(1)
		done.Go(func() { all[i].Run(&ready) })
	}
	ready.Wait()
	f := startFlood(t, 16, 5*time.Millisecond, urls...)
	for round := range rounds {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+200 })
		for range clients / 2 {
			all[rand.IntN(clients)].Cut(rand.IntN(2) == 0)
		}
		if i := round % 3; round%2 == 0 {
			hubs[i].Kill()
			start(i)
		} else {
			hubs[i].Stop() // drains
			start(i)
		}
	}
	acked := f.end()
	hubs[0].Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	sawAll(t, &hubs[0].Hub, acked, all...)
	resumes := 0
	for _, c := range all {
		is.Equal(c.Got, all[0].Got)
		is.Equal(c.Resumes["fresh"], 1)
		is.Equal(c.Resumes["partial"], 0)
		resumes += c.Resumes["complete"]
	}
	t.Logf("%d clients resumed %d times, %d acknowledged, answers %v", clients, resumes, len(acked), f.statuses)
}

// A hub that is cut off from the broker and the others says so, tells its streams of
// nobody's leaving, and is one of them again when it is back.
func TestPartition(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	hubtest.Binary(t) // both are built where the modules are in reach
	natstest.Binary(t)
	near, far, ip := hubtest.Cabled(t, "198.18.1.1/30", "198.18.1.2/30")
	hubtest.Enter(t, near)
	servers := natstest.StartProcessesOn(t, "198.18.1.1", 1)
	settings := append(hubtest.Shared(1, "test", servers.URLs()), "REALTIME_PRESENCE_AUDIENCE=tenant", "REALTIME_PRESENCE_GRACE=1s")
	here := hubtest.Start(t, settings...)
	nearUser := listen(t, here.Addr, "near")
	hubtest.Enter(t, far)
	there := hubtest.Start(t, settings...)
	farUser := listen(t, there.Addr, "far")
	farUser.until(t, "presence.online far")
	hubtest.Enter(t, near)
	nearUser.until(t, "presence.online far")
	accepts(t, here.Addr, 1)
	nearUser.until(t, "a.b 1")
	farUser.until(t, "a.b 1")

	ip("link set cable down")
	cut := time.Now()
	hubtest.Enter(t, far)
	eventually(t, func() bool { return statusOf(t, there.Addr, "/readyz") == http.StatusServiceUnavailable })
	t.Logf("the hub that is cut off is not ready after %v", time.Since(cut))
	eventually(t, func() bool { return strings.Contains(there.Logs.String(), "store: disconnected") }) // until then it may say something that arrives later
	status, _ := publishAt(t, there.Addr, 99)
	is.Equal(status, http.StatusServiceUnavailable)
	hubtest.Enter(t, near)
	for n := 2; n < 12; n++ {
		accepts(t, here.Addr, n)
	}
	nearUser.until(t, "presence.offline far") // it may be dead, as far as anybody here knows
	t.Logf("its people are offline for the others after %v", time.Since(cut))

	ip("link set cable up")
	back := time.Now()
	nearUser.until(t, "presence.online far")
	farUser.until(t, "a.b 11")
	t.Logf("caught up %v after the cable was back", time.Since(back))
	accepts(t, here.Addr, 12)
	farUser.until(t, "a.b 12")
	nearUser.until(t, "a.b 12")
	hubtest.Enter(t, far)
	eventually(t, func() bool { return statusOf(t, there.Addr, "/readyz") == http.StatusOK })
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
