//go:build linux

package main

import (
	"fmt"
	"sync"
	"time"

	"realtimehub/internal/testkit"
)

// How a stream comes over TLS is compared with how it comes in clear text.
const (
	secureStreams = 2_000 // at most: our own end of each takes more than the hub's
	secureRounds  = 20
	secureIdle    = 30 * time.Second // two heartbeats, at least
)

// way is how streams reach the hub.
type way struct {
	name   string
	tls    bool
	http2  bool
	shared int  // streams of a connection
	proxy  bool // what was measured is nginx, with TLS and HTTP/2, before a hub in clear text
}

var ways = []way{
	{name: "plain", shared: 1},
	{name: "TLS", tls: true, shared: 1},
	{name: "HTTP/2", tls: true, http2: true, shared: 1},
	{name: "HTTP/2, 100 a connection", tls: true, http2: true, shared: 100},
	{name: "HTTP/2 in clear text, 100 a connection", http2: true, shared: 100},
	{name: "nginx, TLS", tls: true, shared: 1, proxy: true},
	{name: "nginx, HTTP/2", tls: true, http2: true, shared: 1, proxy: true},
}

// secured is what a stream of a way costs its server.
type secured struct{ bytes, delivery, idle float64 }

// secureFigures are what is measured of each way, in one life of its server.
var secureFigures = []struct {
	unit string
	of   func(secured) float64
}{
	{"bytes a stream", func(s secured) float64 { return s.bytes }},
	{"CPU µs a delivery, paced", func(s secured) float64 { return s.delivery }},
	{"CPU µs a second of an idle stream", func(s secured) float64 { return s.idle }},
}

// secureRows compare streams over TLS and HTTP/2 with those in clear text. The first measures all.
func secureRows() (list []row) {
	var once sync.Once
	got, failed := map[string]secured{}, error(nil)
	for _, f := range secureFigures {
		for _, w := range ways[1:] {
			list = append(list, row{"secure", f.unit + ", " + w.name, "", func(b *bench) (figures, error) {
				once.Do(func() { failed = b.secure(got) })
				its, ok := got[w.name]
				switch {
				case failed != nil:
					return figures{}, failed
				case !ok:
					return figures{note: "nginx is missing"}, nil
				}
				return figures{new(f.of(its)), new(f.of(got["plain"])), "plain", ""}, nil
			}})
		}
	}
	return list
}

func (b *bench) secure(got map[string]secured) error {
	if b.base != "" {
		return errNotRestarted
	}
	for _, w := range ways {
		if w.proxy && !hasNginx() {
			continue
		}
		its, err := b.secureBy(w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		got[w.name] = its
		b.say("secure: %s: %.0f bytes, %.1f µs a delivery, %.2f µs a second idle", w.name, its.bytes, its.delivery, its.idle)
	}
	return nil
}

// secureBy opens all streams in a way, and measures what they cost whoever has their connections.
func (b *bench) secureBy(w way) (its secured, err error) {
	cert, key, err := testkit.WriteCertificate(b.dir, "loadtest")
	if err != nil {
		return its, err
	}
	var settings []string
	if w.tls && !w.proxy {
		settings = []string{"REALTIME_TLS_CERT=" + cert, "REALTIME_TLS_KEY=" + key}
	}
	hub, err := b.begin("sse", settings...)
	if err != nil {
		return its, err
	}
	defer hub.stop()
	measured := hub
	if w.proxy {
		if measured, err = b.proxy(hub.addr.String(), cert, key); err != nil {
			return its, err
		}
		defer measured.stop()
	}
	before, err := pssOf(measured.pids)
	if err != nil {
		return its, err
	}
	streams := min(b.streams, secureStreams)
	b.say("secure: %s: opening %d streams", w.name, streams)
	readers := newReaders(w, hub, measured.addr.String())
	defer readers.close()
	if err := readers.open(streams); err != nil {
		return its, err
	}
	if err := readers.settle(hub.quiet()); err != nil {
		return its, err
	}
	if its.idle, err = measured.spent(streams, func() error { return readers.rest(secureIdle) }); err != nil {
		return its, err
	}
	its.idle /= secureIdle.Seconds()
	after, err := pssOf(measured.pids)
	if err != nil {
		return its, err
	}
	its.bytes = float64(after-before) / float64(streams)
	its.delivery, err = measured.spent(secureRounds*streams, func() error { return readers.publish(secureRounds) })
	return its, err
}
