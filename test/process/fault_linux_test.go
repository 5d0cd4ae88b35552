package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// A flood of events to clients that do not read stays within the memory budget
// and what else was planned for, and a client that reads does not notice.
func TestAFloodStaysWithinTheMemoryBudget(t *testing.T) {
	is := is.New(t)
	const budget, history, state, calls, stalled, events = 128 << 20, 32 << 20, 64 << 20, 32 << 20, 200, 12_000
	const plan = budget + history + state + calls
	p := startProcess(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget), fmt.Sprint("REALTIME_HISTORY_TOTAL_BYTES=", history),
		fmt.Sprint("REALTIME_STATE_BYTES=", state), fmt.Sprint("REALTIME_CALL_BYTES=", calls), "REALTIME_STREAM_BUFFER=0")
	for i := range stalled {
		hubtest.Subscribe(t, p.Addr, fmt.Sprint("stalled-", i))
	}
	healthy := hubtest.Subscribe(t, p.Addr, "healthy")

	// Events of their own for each, so that none of the memory is shared.
	pr, pw := net.Pipe()
	const every = 100
	go func() {
		defer pw.Close()
		filler := strings.Repeat("x", 60<<10-len(`""`))
		w := bufio.NewWriterSize(pw, 1<<20)
		for i := range events {
			to := fmt.Sprint("stalled-", i%stalled)
			if i%every == every-1 {
				to = "healthy"
			}
			fmt.Fprintf(w, `{"tenantId":"acme","type":"a.b","payload":"%s","target":{"kind":"profile","profiles":["user:%s"]}}`+"\n", filler, to)
		}
		w.Flush()
	}()
	var answer bytes.Buffer
	posted := make(chan error, 1)
	go func() {
		res, err := hubtest.CheckedClient(t, nil).Post("http://"+p.Addr+"/v1/events", "application/x-ndjson", pr)
		if err == nil {
			_, err = answer.ReadFrom(res.Body)
			res.Body.Close()
		}
		posted <- err
	}()
	reader := hubtest.NewReader(t, healthy)
	for range events / every {
		healthy.SetReadDeadline(time.Now().Add(time.Minute)) // while 6 MB are published for others
		event, err := reader.Next()
		is.NoErr(err)
		is.Equal(event.Type, "a.b") // never a gap, never closing
	}
	is.NoErr(<-posted)
	is.True(strings.Contains(answer.String(), fmt.Sprintf(`{"accepted":%d,"refused":0`, events))) // a publish never fails for it
	peak := p.Peak(t)
	t.Logf("peak %d MiB of %d", peak>>20, plan>>20)
	is.True(peak <= plan*115/100) // + 15 %
	http.DefaultClient.CloseIdleConnections()
	p.Stop()
	is.True(strings.Contains(p.Logs.String(), "reason=slow")) // each cut says why
}

// A peer that vanishes without a word, as a laptop does whose lid is closed, is gone soon:
// TestProbesAreManyAndNotAligned says that the system has 25 s for it. The hub and its peers have a network of their own each, with
// a cable between them; the test is in one at a time.
func TestAVanishedPeerIsGone(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	hub, peers, ip := hubtest.Cabled(t, "198.18.0.1/30", "198.18.0.2/30")
	hubtest.Enter(t, hub)
	p := startProcess(t, "REALTIME_ADDR=198.18.0.1:0", "REALTIME_DANGEROUSLY_OPEN=true", "REALTIME_PRESENCE_GRACE=0", "REALTIME_PRESENCE_AUDIENCE=tenant")
	seer := hubtest.Subscribe(t, p.Addr, "seer")
	hubtest.Enter(t, peers)
	hubtest.Subscribe(t, p.Addr, "idle")
	hubtest.Subscribe(t, p.Addr, "busy")
	ip("link set cable down") // not a byte comes or goes from now on
	vanished := time.Now()

	hubtest.Enter(t, hub)
	publisher, err := net.Dial("tcp", p.Addr)
	is.NoErr(err)
	defer publisher.Close()
	const event = `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"profile","profiles":["busy"]}}`
	fmt.Fprintf(publisher, "POST /v1/events HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(event), event)
	answers := bufio.NewReader(publisher)
	res, err := http.ReadResponse(answers, nil)
	is.NoErr(err)
	is.Equal(res.StatusCode, http.StatusAccepted)
	io.Copy(io.Discard, res.Body)

	seer.SetReadDeadline(vanished.Add(time.Minute))
	reader := hubtest.NewReader(t, seer)
	for offline := 0; offline < 2; {
		event, err := reader.Next()
		is.NoErr(err) // until both are offline
		if event.Type == "presence.offline" {
			offline++
			t.Logf("%s after %v", event.Data, time.Since(vanished))
		}
	}
	fmt.Fprintf(publisher, "GET /metrics HTTP/1.1\r\nHost: hub\r\n\r\n")
	res, err = http.ReadResponse(answers, nil)
	is.NoErr(err)
	defer res.Body.Close()
	metrics, err := io.ReadAll(res.Body)
	is.NoErr(err)
	is.True(strings.Contains(string(metrics), `realtime_closes_total{reason="vanished"} 2`)) // and not as one that left
}

// SIGTERM under load: publishes are answered while it drains, and every stream is told
// when to come back, spread over the time; then exit 0. What was
// acknowledged and not delivered any more is had from the other hub.
func TestDrainUnderLoad(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const over = 8 * time.Second // long enough for a slow machine to have publishes answered
	streams := 2000
	if testing.Short() {
		streams = 500
	}
	p, next := twoHubs(t, fmt.Sprint("REALTIME_DRAIN=", over), "REALTIME_RETRY=1s", "GOMAXPROCS=2")
	type ending struct {
		at     time.Duration
		lastID string
		err    error
	}
	endings := make(chan ending, streams)
	var started atomic.Pointer[time.Time]
	var open, read atomic.Int64 // streams, and the events that those have read
	open.Store(int64(streams))
	for i := range streams {
		conn := hubtest.Subscribe(t, p.Addr, fmt.Sprint("p-", i))
		go func() {
			reader := hubtest.NewReader(t, conn)
			for n := int64(0); ; n++ {
				event, err := reader.Next()
				if err == nil && event.Type != "hub.closing" {
					read.Add(1)
					continue
				}
				read.Add(-n)
				open.Add(-1)
				e := ending{lastID: reader.LastEventID(), err: err}
				if began := started.Load(); began != nil {
					e.at = time.Since(*began)
				}
				var data struct {
					Reason  string
					RetryMS int64
				}
				retry, _ := reader.Retry()
				if err == nil && (json.Unmarshal([]byte(event.Data), &data) != nil || data.Reason != "drain" ||
					retry.Milliseconds() != data.RetryMS || retry < time.Second || retry > 2*time.Second) {
					e.err = fmt.Errorf("%+v, retry %v", event, retry)
				}
				endings <- e
				return
			}
		}()
	}
	// Publishers post until nobody listens any more, as fast as the streams are read. A
	// connection that the hub has said it closes is not used again, so each request is
	// answered.
	var publishers sync.WaitGroup
	var posted, acknowledged, draining atomic.Int32
	faults := make(chan error, 4)
	for range 4 {
		publishers.Go(func() {
			client := hubtest.CheckedClient(t, &http.Transport{})
			for {
				event := fmt.Sprintf(`{"id":"post-%d","tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`, posted.Add(1))
				var res *http.Response
				for unconfirmed := true; unconfirmed; { // the broker is slow: the same again
					var err error
					res, err = client.Post("http://"+p.Addr+"/v1/events", "application/json", strings.NewReader(event))
					if began := started.Load(); err != nil && began != nil && time.Since(*began) > over*9/10 {
						return // refused, or reset where the kernel had it and the hub had not
					}
					if err != nil {
						faults <- err
						return
					}
					text, _ := io.ReadAll(res.Body)
					res.Body.Close()
					unconfirmed = res.StatusCode == http.StatusServiceUnavailable && bytes.Contains(text, []byte(`"code":"Unconfirmed"`))
				}
				if res.StatusCode != http.StatusAccepted {
					faults <- errors.New(res.Status)
					return
				}
				acknowledged.Add(1)
				if res.Close {
					draining.Add(1)
				}
				for read.Load() < int64(acknowledged.Load()-50)*open.Load() {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	testkit.Eventually(t, func() bool { return acknowledged.Load() >= 100 || len(faults) > 0 })
	is.Equal(len(faults), 0)
	now := time.Now()
	started.Store(&now)
	syscall.Kill(p.PID, syscall.SIGTERM)
	var lastID string
	var first, last time.Duration
	for i := range streams {
		e := <-endings
		is.NoErr(e.err)
		if i == 0 {
			first = e.at
		}
		last = max(last, e.at)
		lastID = e.lastID
	}
	publishers.Wait()
	http.DefaultClient.CloseIdleConnections()
	state := p.Wait()
	t.Logf("streams ended from %v to %v; %d events, %d after SIGTERM; exit after %v", first, last, acknowledged.Load(), draining.Load(), time.Since(now))
	is.Equal(state.ExitCode(), 0)
	is.Equal(len(faults), 0)
	is.True(draining.Load() > 0) // with Connection: close

	is.True(strings.Contains(next.Back(t, lastID, "tenant=acme&profile=p-1").Ready.Data, `"resume":"complete"`))
}

// A hub that drains is not ready, and sends new streams away. Who cannot wait sends a second
// signal.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	p, _ := twoHubs(t, "REALTIME_DRAIN=1h")
	hubtest.Subscribe(t, p.Addr, "a")
	hubtest.Subscribe(t, p.Addr, "b")
	p.Signal(syscall.SIGTERM)
	for {
		res, err := hubtest.CheckedClient(t, nil).Get("http://" + p.Addr + "/readyz")
		is.NoErr(err)
		res.Body.Close()
		if res.StatusCode == http.StatusServiceUnavailable {
			break
		}
	}
	res, err := hubtest.CheckedClient(t, nil).Get("http://" + p.Addr + "/v1/stream?tenant=acme&profile=late")
	is.NoErr(err)
	is.Equal(res.StatusCode, http.StatusOK) // as EventSource wants it
	event, err := hubtest.NewReader(t, res.Body).Next()
	is.NoErr(err)
	is.Equal(event.Type, "hub.closing")
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	is.Equal(p.Stop().Sys().(syscall.WaitStatus).Signal(), syscall.SIGTERM)
}

// 2,000 clients that never finish their headers are sent away, and real ones connect
// meanwhile. TestHalfAHeaderIsNotWaitedFor says when.
func TestSlowloris(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const slow = 2000
	p := startProcess(t)
	ended := make(chan error, slow)
	start := time.Now()
	for range slow {
		conn, err := net.Dial("tcp", p.Addr)
		is.NoErr(err)
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=user:1 HTTP/1.1\r\nHost: %s\r\nX-Slow: ", p.Addr)
		go func() {
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		}()
	}
	for i := range 50 {
		hubtest.Subscribe(t, p.Addr, fmt.Sprint("real-", i))
	}
	t.Logf("50 real clients were connected after %v", time.Since(start))
	for range slow {
		is.True(!errors.Is(<-ended, os.ErrDeadlineExceeded)) // it is closed
	}
	t.Logf("the last half-sent header was gone after %v", time.Since(start))
}
