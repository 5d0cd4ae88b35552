//go:build unix

package cluster

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// Hubs that share a history are one: when the first drains, its streams end one after
// the other, with the time to come back, and resume complete on the second; what
// is published meanwhile, through either, reaches all.
func TestDrainToAnotherHub(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	clients := 2000
	if testing.Short() {
		clients = 200
	}
	hubs := hubtest.StartCluster(t, 2, natstest.Start(t, 1), "REALTIME_DRAIN=1s", "REALTIME_MAX_CONNECTIONS_PER_ADDRESS=0")
	first, second := hubs[0], hubs[1]
	var ready, done sync.WaitGroup
	all := make([]*hubtest.CutClient, clients)
	for i := range all {
		all[i] = &hubtest.CutClient{Addr: first.Addr, Next: second.Addr, Profile: fmt.Sprint(i % 100)}
		ready.Add(1)
		done.Go(func() { all[i].Run(&ready) })
	}
	ready.Wait()
	drained := make(chan struct{})
	drain := func() {
		defer close(drained)
		start := time.Now()
		if state := first.Stop(); state.ExitCode() != 0 || time.Since(start) < time.Second/2 {
			t.Errorf("drained after %v: %v", time.Since(start), state)
		}
	}
	var want [100][]int
	through := map[*hubtest.Program]int{}
	for n, over := 0, false; !over; n++ {
		if n == 20 {
			go drain()
		}
		select {
		case <-drained:
			over = true // one more, through the second
		default:
		}
		to := n % 100
		want[to] = append(want[to], n)
		event := fmt.Sprintf(`{"id":"event-%d","tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"profile","profiles":["%d"]}}`, n, n, to)
		if n%2 == 0 && publish(first, event) { // it may end before it has answered
			through[first]++
		} else {
			second.Accepted(t, "/v1/events", event)
			through[second]++
		}
	}
	<-drained
	second.Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	t.Logf("%d events through the hub that drained, %d through the other", through[first], through[second])
	is.True(through[first] > 0)
	is.True(through[second] > 0)
	for i, c := range all {
		is.NoErr(c.Fault)
		is.Equal(c.Got, want[i%100])
		is.Equal(c.Resumes, map[string]int{"fresh": 1, "complete": 1})
	}
}

// publish says whether a hub has taken an event.
func publish(hub *hubtest.Program, event string) bool {
	res, err := hub.Client.Post(hub.URL+"/v1/events", "application/json", strings.NewReader(event))
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusAccepted
}
