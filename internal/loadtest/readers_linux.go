//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/loadtest/reader"
)

// opening is how many streams are opened at once.
const opening = 64

// readers hold streams over TLS or HTTP/2, with a goroutine each: unlike client they cost their
// own core much more than the server its.
type readers struct {
	way    way
	hub    *server // what is published to, in its words
	addr   string  // where the streams come
	ctx    context.Context
	cancel context.CancelFunc
	http   *http.Client // publishes

	all    sync.WaitGroup
	ready  atomic.Int64 // streams that have what the hub greets with
	events atomic.Int64 // of all streams
	failed chan error   // the first
}

func newReaders(w way, hub *server, addr string) *readers {
	ctx, cancel := context.WithCancel(context.Background())
	return &readers{way: w, hub: hub, addr: addr, ctx: ctx, cancel: cancel, http: &http.Client{Transport: w.transport()}, failed: make(chan error, 1)}
}

// transport is a connection of a way's.
func (w way) transport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!w.http2)
	protocols.SetHTTP2(w.http2 && w.tls)
	protocols.SetUnencryptedHTTP2(w.http2 && !w.tls)
	return &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableCompression: true, MaxIdleConnsPerHost: 1}
}

func (r *readers) close() {
	r.cancel()
	r.all.Wait()
	r.http.CloseIdleConnections()
}

// open opens n streams, and waits until each is greeted.
func (r *readers) open(n int) error {
	var shared *http.Transport
	for i := range n {
		if i%r.way.shared == 0 {
			shared = r.way.transport()
		}
		over := shared
		r.all.Go(func() {
			if err := r.read(over, i); err != nil && r.ctx.Err() == nil {
				select {
				case r.failed <- fmt.Errorf("stream %d: %w", i, err):
				default:
				}
			}
		})
		if err := r.until("free places to connect", func() bool { return i-int(r.ready.Load()) < opening }); err != nil {
			return err
		}
	}
	return r.until("streams to be ready", func() bool { return int(r.ready.Load()) == n })
}

// read reads stream i until it ends.
func (r *readers) read(over *http.Transport, i int) error {
	defer over.CloseIdleConnections()
	request, err := http.NewRequestWithContext(r.ctx, "GET", r.url(fmt.Sprintf("/v1/stream?tenant=%s&profile=%s", r.hub.tenant, profile(i))), nil)
	if err != nil {
		return err
	}
	answer, err := over.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", answer.Status)
	}
	counts := reader.OfBody()
	for buf := make([]byte, 4096); ; {
		n, err := answer.Body.Read(buf)
		had := counts.Events
		if err := counts.Feed(buf[:n]); err != nil {
			return err
		}
		r.events.Add(int64(counts.Events - had))
		if had == 0 && counts.Events > 0 {
			r.ready.Add(1)
		}
		if err != nil {
			return err
		}
	}
}

func (r *readers) url(path string) string {
	scheme := "http://"
	if r.way.tls {
		scheme = "https://"
	}
	return scheme + r.addr + path
}

// publish sends one event to all streams n times, each when all have the one before.
func (r *readers) publish(n int) error {
	body := r.hub.event(map[string]any{"kind": "tenant"})
	for range n {
		want := r.events.Load() + r.ready.Load()
		answer, err := r.http.Post(r.url("/v1/events"), "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		said, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			return err
		}
		if answer.StatusCode/100 != 2 {
			return fmt.Errorf("publish: answered %s %.200s", answer.Status, said)
		}
		if err := r.until("the event at all streams", func() bool { return r.events.Load() >= want }); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until no event has come for a time: presence is told late.
func (r *readers) settle(quiet time.Duration) error {
	had, since := r.events.Load(), time.Now()
	return r.until("silence", func() bool {
		if now := r.events.Load(); now != had {
			had, since = now, time.Now()
		}
		return time.Since(since) >= quiet
	})
}

// rest lets a time pass.
func (r *readers) rest(d time.Duration) error {
	end := time.Now().Add(d)
	return r.until("time to pass", func() bool { return !time.Now().Before(end) })
}

// until waits until something is done, or a stream has failed.
func (r *readers) until(what string, done func() bool) error {
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		select {
		case err := <-r.failed:
			return err
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s: %d streams ready, %d events", patience, what, r.ready.Load(), r.events.Load())
		}
	}
	return nil
}
