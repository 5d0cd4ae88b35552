package outage

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// One hub with a folder is stopped and killed in turn while people publish and come back:
// what was acknowledged reaches all, once, and nobody is told of a gap.
func TestFolderStorm(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	clients, rounds := 200, 20
	if testing.Short() {
		clients, rounds = 50, 4
	}
	addr := fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
	settings := append([]string{
		"REALTIME_DATA=" + t.TempDir(), "REALTIME_ADDR=" + addr, "REALTIME_RETRY=10ms", "REALTIME_DRAIN=300ms", "REALTIME_PRESENCE_AUDIENCE=none",
	}, keepsAll...)
	hub := hubtest.Start(t, settings...)
	all := make([]*hubtest.CutClient, clients)
	var ready, done sync.WaitGroup
	for i := range all {
		all[i] = &hubtest.CutClient{AnyOf: []string{addr}, Profile: fmt.Sprint(i)}
		ready.Add(1)
		done.Go(func() { all[i].Run(&ready) })
	}
	ready.Wait()
	f := startFlood(t, 16, 5*time.Millisecond, "http://"+addr)
	for round := range rounds {
		before := len(f.answered())
		eventually(t, func() bool { return len(f.answered()) > before+100 })
		for range clients / 10 {
			all[rand.IntN(clients)].Cut(rand.IntN(2) == 0)
		}
		if round%2 == 0 {
			hub.Kill()
		} else {
			hub.Stop()
		}
		hub = hubtest.Start(t, settings...)
	}
	acked := f.end()
	hub.Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	sawAll(t, &hub.Hub, acked, all...)
	resumes := 0
	for _, c := range all {
		is.Equal(c.Got, all[0].Got)
		is.Equal(c.Resumes["fresh"], 1)
		is.Equal(c.Resumes["partial"], 0)
		resumes += c.Resumes["complete"]
	}
	t.Logf("%d clients resumed %d times over %d restarts, %d acknowledged, answers %v", clients, resumes, rounds, len(acked), f.statuses)
}
