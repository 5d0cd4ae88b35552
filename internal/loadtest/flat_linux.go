//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"
)

// What a million streams cost is told from how the cost grows.
const (
	million      = 1_000_000
	slopeIdle    = 30 * time.Second // two heartbeats, at least
	busyConnects = 1_000            // at once, beside another tenant's events
	busyTimes    = 30               // that many, so that some 20 events meet them
	busyEvery    = 100 * time.Millisecond
)

// idling is what a hub with so many idle streams takes.
type idling struct {
	streams int
	bytes   int           // of memory
	cpu     time.Duration // a second, with heartbeats
}

// slope measures idle hubs of three sizes, and what a million streams take by the line through
// the smallest and the largest.
func (b *bench) slope() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	var all []idling
	note := ""
	for _, n := range []int{b.streams / 2, b.streams, b.streams * 9 / 5} {
		got, err := b.idling(n)
		if err != nil {
			return figures{}, err
		}
		all = append(all, got)
		note += fmt.Sprintf("%d: %d MiB, CPU %.1f ms/s; ", n, got.bytes>>20, 1e3*got.cpu.Seconds())
	}
	first, last := all[0], all[len(all)-1]
	more := float64(last.streams - first.streams)
	each := float64(last.bytes-first.bytes) / more
	cpu := (last.cpu - first.cpu).Seconds() / more
	note += fmt.Sprintf("a million: %.2f GiB, CPU %.2f s/s", each*million/(1<<30), cpu*million)
	return figures{hub: &each, note: note}, nil
}

// idling is what a hub takes once so many streams are open.
func (b *bench) idling(n int) (got idling, err error) {
	s, c, finish, err := b.client("hub")
	if err != nil {
		return got, err
	}
	defer finish()
	b.say("slope: opening %d streams", n)
	if err := c.open(n, 0); err != nil {
		return got, err
	}
	if got.bytes, err = stableMemory(s, c); err != nil {
		return got, err
	}
	got.streams = n
	before, err := ranFor(s.pids)
	if err != nil {
		return got, err
	}
	if err := c.rest(slopeIdle); err != nil {
		return got, err
	}
	after, err := ranFor(s.pids)
	got.cpu = (after - before) * time.Duration(time.Second) / slopeIdle
	return got, err
}

// connects measures how long a connect takes beside another tenant whose events go to all of its
// streams, and beside one that is silent.
func (b *bench) connects() (figures, error) {
	got, err := b.compare("connects, ms each", 3, []string{"fan-out", "silence"}, func(kind string) (float64, error) {
		return b.with("connects", "hub", b.streams, func(s *server, c *client, p *poster) (float64, error) {
			other := *s
			other.tenant += "-other"
			end, ended := make(chan struct{}), make(chan error, 1)
			events := 0
			go func() {
				var err error
				events, err = b.reads(c, p, s.toAll(b.frame), kind == "fan-out", end)
				ended <- err
			}()
			var took time.Duration
			var err error
			for i := 0; i < busyTimes && err == nil; i++ {
				var one time.Duration
				one, err = opened(&other)
				took += one
			}
			close(end)
			if err = errors.Join(err, <-ended); err == nil && kind == "fan-out" && events < busyTimes/10 {
				err = fmt.Errorf("only %d events came beside the connects", events)
			}
			return 1e3 * took.Seconds() / (busyTimes * busyConnects), err
		})
	})
	return figures{got.get("fan-out"), got.get("silence"), "silence", fmt.Sprintf("%d streams of another tenant, an event each %v", b.streams, busyEvery)}, err
}

// opened is how long many connects take at once. They are closed again.
func opened(s *server) (time.Duration, error) {
	c, err := newClient(s)
	if err != nil {
		return 0, err
	}
	defer c.close()
	start := time.Now()
	err = c.open(busyConnects, 0)
	return time.Since(start), err
}

// reads has a client read, and a tenant publish to all of its streams, until the end. It returns
// how many events all of them have had.
func (b *bench) reads(c *client, p *poster, request []byte, publishes bool, end <-chan struct{}) (events int, err error) {
	var due <-chan time.Time
	if publishes {
		ticker := time.NewTicker(busyEvery)
		defer ticker.Stop()
		due = ticker.C
	}
	for {
		select {
		case <-end:
			return events, nil
		case <-due:
			if err := publish(c, p, 1, c.events/len(c.streams)+1, func(int) []byte { return request }); err != nil {
				return events, err
			}
			events++
		default:
			if err := c.pump(1); err != nil {
				return events, err
			}
		}
	}
}
