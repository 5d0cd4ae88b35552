package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"realtimehub/internal/sse"
)

const (
	wellStreams = 100
	wellRate    = 50                // events a second, to all of them
	patience    = 15 * time.Second  // for an answer, or an event
	tick        = "well.tick"       // what is published
	paid        = "well.order.paid" // the type of an event that must come once
)

// bystander is the tenant that does nothing to anybody: it publishes to its own streams.
type bystander struct {
	addr   string
	client *http.Client
	reads  sync.WaitGroup

	published int         // by the one who publishes
	due       []time.Time // when each event was to be published; guarded by mu

	mu sync.Mutex
	// Guarded by mu.
	waits  []time.Duration // from when an event was due until a stream had it
	got    [wellStreams]int
	orders []int    // that came to the first stream
	faults []string // what it noticed of others
}

// newBystander opens the streams. It ends with the test.
func newBystander(t *testing.T, addr string) *bystander {
	t.Helper()
	b := &bystander{addr: addr, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		b.reads.Wait()
		b.client.CloseIdleConnections()
	})
	for i := range wellStreams {
		events, err := b.open(ctx, fmt.Sprint("user:", i))
		if err != nil {
			t.Fatal(err)
		}
		b.reads.Go(func() { b.follow(ctx, i, events) })
	}
	return b
}

// open opens a stream and waits for hub.ready.
func (b *bystander) open(ctx context.Context, profile string) (*sse.Reader, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+b.addr+"/v1/stream?presence=none", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token(well, profile))
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: patience}).DialContext, DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("a stream is answered %s", res.Status)
	}
	events := sse.NewReader(res.Body)
	first, err := events.Next()
	if err == nil && first.Type != "hub.ready" {
		err = fmt.Errorf("a stream begins with %s %s", first.Type, first.Data)
	}
	return events, err
}

// follow reads a stream until ctx ends: each event comes once, after the one before.
func (b *bystander) follow(ctx context.Context, i int, events *sse.Reader) {
	for {
		e, err := events.Next()
		now := time.Now()
		if err != nil {
			if ctx.Err() == nil {
				b.notice("stream %d ended: %v", i, err)
			}
			return
		}
		switch {
		case e.Type == tick:
			var event struct{ Payload int }
			if err := json.Unmarshal([]byte(e.Data), &event); err != nil {
				b.notice("stream %d: %v in %.100s", i, err, e.Data)
				return
			}
			b.mu.Lock()
			want := b.got[i]
			b.got[i] = event.Payload + 1
			if event.Payload < len(b.due) {
				b.waits = append(b.waits, now.Sub(b.due[event.Payload]))
			}
			b.mu.Unlock()
			if event.Payload != want {
				b.notice("stream %d: event %d came where %d was to", i, event.Payload, want)
			}
		case e.Type == paid && i == 0:
			var event struct{ Payload int }
			if err := json.Unmarshal([]byte(e.Data), &event); err != nil {
				b.notice("stream %d: %v in %.100s", i, err, e.Data)
				return
			}
			b.mu.Lock()
			b.orders = append(b.orders, event.Payload)
			b.mu.Unlock()
		case e.Type == "hub.gap" || e.Type == "hub.closing":
			b.notice("stream %d: %s %s", i, e.Type, e.Data)
		}
	}
}

// notice notes what should not have been; of many the first.
func (b *bystander) notice(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) < 10 {
		b.faults = append(b.faults, fmt.Sprintf(format, args...))
	}
}

func (b *bystander) noticed() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}

// publish publishes one event to all streams, or to one profile's.
func (b *bystander) publish(ctx context.Context, id, kind, profile string, payload any) (duplicate bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	path := "/v1/tenants/" + well
	if profile != "" {
		path += "/profiles/" + profile
	}
	body, err := json.Marshal(map[string]any{"id": id, "type": kind, "payload": payload})
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+b.addr+path+"/events", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-API-Key", keyWell)
	res, err := b.client.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("a publish is answered %s %.200s", res.Status, answer)
	}
	return bytes.Contains(answer, []byte(`"duplicate":true`)), err
}

// run publishes until ctx ends, waits until all streams have all of it, and says how
// long an event took, in 99 of 100 cases at most. Who publishes late, because the event
// before was not answered yet, is late: the time begins when the event was due. So all is
// published that was due before ctx ended.
func (b *bystander) run(ctx context.Context) (p99 time.Duration) {
	b.mu.Lock()
	b.waits = b.waits[:0]
	b.mu.Unlock()
	begun := time.Now()
	var end atomic.Int64 // when ctx ended, in nanoseconds since
	defer context.AfterFunc(ctx, func() { end.Store(int64(time.Since(begun))) })()
	for i := 0; ; i++ {
		due := time.Duration(i) * time.Second / wellRate
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(begun.Add(due))):
		}
		if ctx.Err() != nil && int64(due) >= end.Load() {
			break
		}
		n := b.published
		b.mu.Lock()
		b.due = append(b.due, begun.Add(due))
		b.mu.Unlock()
		if _, err := b.publish(context.WithoutCancel(ctx), fmt.Sprint("tick-", n), tick, "", n); err != nil {
			b.notice("event %d: %v", n, err)
			<-ctx.Done() // one is enough
			break
		}
		b.published++
	}
	b.settle()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waits) == 0 {
		return 0
	}
	slices.Sort(b.waits)
	return b.waits[len(b.waits)*99/100]
}

// ordersUntil waits for an order, and returns all that have come.
func (b *bystander) ordersUntil(last int) []int {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		orders := slices.Clone(b.orders)
		b.mu.Unlock()
		if slices.Contains(orders, last) || time.Now().After(end) {
			return orders
		}
	}
}

// settle waits until each stream has had all events.
func (b *bystander) settle() {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		least := slices.Min(b.got[:])
		broken := len(b.faults) > 0
		b.mu.Unlock()
		if least >= b.published || broken {
			return
		}
		if time.Now().After(end) {
			b.notice("a stream has %d of %d events", least, b.published)
			return
		}
	}
}

// visit comes anew, again and again until ctx ends: somebody who asks whether the hub is
// there, as a health check does.
func (b *bystander) visit(ctx context.Context) {
	for {
		if body, err := ask(b.addr, "/healthz", ""); err != nil || !strings.Contains(body, "ok") {
			b.notice("health: %v %s", err, body)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(250 * time.Millisecond):
		}
	}
}
