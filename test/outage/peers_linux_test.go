package outage

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// peerHubs are three hubs with a folder each, which are one.
type peerHubs struct {
	dirs, addrs, peers []string
	more               []string // settings of all
	hubs               []*hubtest.Program
}

func startPeers(t *testing.T, more ...string) *peerHubs {
	t.Helper()
	p := &peerHubs{more: append(more, keepsAll...), hubs: make([]*hubtest.Program, 3)}
	for range p.hubs {
		p.dirs = append(p.dirs, t.TempDir())
		p.addrs = append(p.addrs, fmt.Sprint("127.0.0.1:", natstest.FreePort(t)))
		p.peers = append(p.peers, fmt.Sprint("127.0.0.1:", natstest.FreePort(t)))
	}
	hubtest.Binary(t)
	var all sync.WaitGroup
	for i := range p.hubs { // none is there before the others are
		all.Go(func() { p.start(t, i) })
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	p.whole(t)
	return p
}

func (p *peerHubs) start(t *testing.T, i int) {
	t.Helper()
	p.hubs[i] = hubtest.Start(t, append([]string{
		"REALTIME_DATA=" + p.dirs[i], "REALTIME_ADDR=" + p.addrs[i],
		"REALTIME_PEERS=" + strings.Join(p.peers, ","), "REALTIME_PEERS_ADDR=" + p.peers[i],
	}, p.more...)...)
}

// back starts a hub again, and waits until it has what the others have, while the storm goes on; with
// -short little of it.
func (p *peerHubs) back(t *testing.T, f *flood, i int) {
	t.Helper()
	again := func() {
		p.start(t, i)
		p.whole(t)
	}
	if testing.Short() {
		f.slowly(again)
	} else {
		again()
	}
}

// whole waits until each has all that is kept: then any one of them may go. It asks as seldom
// as a load balancer does: a hub that is behind asks all others each time.
func (p *peerHubs) whole(t *testing.T) {
	t.Helper()
	for _, hub := range p.hubs {
		eventually(t, func() bool {
			if hub.IsReady(t) {
				return true
			}
			time.Sleep(250 * time.Millisecond)
			return false
		})
	}
}

func (p *peerHubs) urls() (urls []string) {
	for _, addr := range p.addrs {
		urls = append(urls, "http://"+addr)
	}
	return urls
}

// storm has people come back while things happen to the hubs, and sixteen publish, each a
// pause after the answer. What was acknowledged reaches all, once, and nobody is told of a gap.
func (p *peerHubs) storm(t *testing.T, clients int, pause time.Duration, happens func(f *flood, cut func())) {
	t.Helper()
	is := is.New(t)
	all := make([]*hubtest.CutClient, clients)
	var ready, done sync.WaitGroup
	for i := range all {
		all[i] = &hubtest.CutClient{AnyOf: p.addrs, Profile: fmt.Sprint(i)}
		ready.Add(1)
		done.Go(func() { all[i].Run(&ready) })
	}
	ready.Wait()
	f := startFlood(t, 16, pause, p.urls()...)
	happens(f, func() {
		for range clients / 10 {
			all[rand.IntN(clients)].Cut(rand.IntN(2) == 0)
		}
	})
	acked := f.end()
	p.hubs[0].Publish(t, "acme", "end", `{"kind":"tenant"}`, "0")
	done.Wait()
	is.NoErr(f.fault)
	sawAll(t, &p.hubs[0].Hub, acked, all...)
	resumes := 0
	for _, c := range all {
		is.Equal(c.Got, all[0].Got)
		is.Equal(c.Resumes["fresh"], 1)
		is.Equal(c.Resumes["partial"], 0)
		resumes += c.Resumes["complete"]
	}
	t.Logf("%d clients resumed %d times, %d acknowledged, none for %.1f s at most, answers %v", clients, resumes, len(acked), f.quiet.Seconds(), f.statuses)
}

// Three hubs with folders are one. Each is killed in turn, and the two that are left go on.
func TestPeersStorm(t *testing.T) {
	t.Parallel()
	clients, rounds, pause := 200, 9, 5*time.Millisecond
	if testing.Short() {
		clients, rounds, pause = 50, 3, 20*time.Millisecond
	}
	p := startPeers(t, "REALTIME_RETRY=10ms", "REALTIME_PRESENCE_AUDIENCE=none")
	p.storm(t, clients, pause, func(f *flood, cut func()) {
		for round := range rounds {
			i := round % len(p.hubs)
			f.goes(t, 100)
			cut()
			p.hubs[i].Kill()
			f.goes(t, 100)
			p.back(t, f, i)
		}
	})
}

// One of three whose folder is lost begins anew with an empty one, and all is kept three
// times again: the others, one after the other, lose theirs too.
func TestPeerReplaced(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	clients, pause := 100, 5*time.Millisecond
	if testing.Short() {
		clients, pause = 20, 20*time.Millisecond
	}
	p := startPeers(t, "REALTIME_RETRY=10ms", "REALTIME_PRESENCE_AUDIENCE=none")
	p.storm(t, clients, pause, func(f *flood, cut func()) {
		for i := range p.hubs {
			f.goes(t, 100)
			cut()
			p.hubs[i].Kill()
			is.NoErr(os.RemoveAll(p.dirs[i]))
			p.back(t, f, i)
		}
	})
}
