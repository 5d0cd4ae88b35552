//go:build linux

package main

import (
	"fmt"
	"time"
)

// What a million streams cost is told from how the cost grows.
const (
	million      = 1_000_000
	slopeIdle    = 30 * time.Second // two heartbeats, at least
	busyConnects = 1_000            // beside another tenant's events
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
			comes, err := newClient(&other)
			if err != nil {
				return 0, err
			}
			defer comes.close()
			end, ended := make(chan struct{}), make(chan error, 1)
			go func() { ended <- b.reads(c, p, s.toAll(b.frame), kind == "fan-out", end) }()
			start := time.Now()
			err = comes.open(busyConnects, 0)
			took := time.Since(start)
			close(end)
			if failed := <-ended; failed != nil {
				return 0, failed
			}
			return 1e3 * took.Seconds() / busyConnects, err
		})
	})
	return figures{got.get("fan-out"), got.get("silence"), "silence", fmt.Sprintf("%d streams of another tenant, an event each %v", b.streams, busyEvery)}, err
}

// reads has a client read, and a tenant publish to all of its streams, until the end.
func (b *bench) reads(c *client, p *poster, request []byte, publishes bool, end <-chan struct{}) error {
	var due <-chan time.Time
	if publishes {
		ticker := time.NewTicker(busyEvery)
		defer ticker.Stop()
		due = ticker.C
	}
	for {
		select {
		case <-end:
			return nil
		case <-due:
			if err := publish(c, p, 1, c.events/len(c.streams)+1, func(int) []byte { return request }); err != nil {
				return err
			}
		default:
			if err := c.pump(1); err != nil {
				return err
			}
		}
	}
}
