package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/pace"
)

// served is a hub that main's run has started, in this process.
type served struct {
	addr string
	logs *syncBuffer
	stop func() // as SIGTERM does; waits
}

// runProgram starts a hub as main does, with settings as the environment has them.
func runProgram(t testing.TB, settings ...string) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	listening, done := make(chan net.Addr, 1), make(chan error, 1)
	p := &served{logs: new(syncBuffer)}
	go func() {
		environ := append([]string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_PRESENCE_AUDIENCE=none"}, settings...)
		done <- run(ctx, environ, p.logs, func(a net.Addr) { listening <- a })
	}()
	ended := false
	p.stop = func() {
		cancel()
		if !ended {
			ended = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(p.stop)
	select {
	case a := <-listening:
		p.addr = a.String()
	case err := <-done:
		ended = true
		t.Fatal(err)
	}
	return p
}

// bareStream is a stream on a bare socket, which has read up to somewhere.
type bareStream struct {
	net.Conn
	got []byte
}

// until reads until something has come, and fails the test on the stream's end or on
// something that should not have come before it.
func (l *bareStream) until(t testing.TB, want, never string) {
	t.Helper()
	l.SetReadDeadline(time.Now().Add(time.Minute))
	for buf := make([]byte, 32<<10); ; {
		if bytes.Contains(l.got, []byte(never)) {
			t.Fatalf("%q came", never)
		}
		if i := bytes.Index(l.got, []byte(want)); i >= 0 {
			l.got = append([]byte(nil), l.got[i+len(want):]...)
			return
		}
		n, err := l.Read(buf)
		if err != nil {
			t.Fatalf("%v before %q", err, want)
		}
		l.got = append(l.got, buf[:n]...)
	}
}

// Every reader of a broadcast is left, however many there are: what all owe is one
// event. The budget is that of a container of 128 MiB, and less than the event's bytes
// times its readers.
func TestABroadcastCutsNobodyWhoReads(t *testing.T) {
	alone(t, "its hub has a budget of its own")
	is := is.New(t)
	var files syscall.Rlimit
	is.NoErr(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	readers := int(min(2400, (files.Cur-200)/3))
	const budget, size = 32 << 20, 20_000
	is.True(readers*size > budget) // or the test would show nothing
	p := runProgram(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget))

	all := make([]*bareStream, readers)
	for i := range all {
		conn, err := net.Dial("tcp", p.addr)
		is.NoErr(err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=user:%d HTTP/1.1\r\nHost: %s\r\n\r\n", i, p.addr)
		all[i] = &bareStream{Conn: conn}
		all[i].until(t, "event: hub.ready\n", "hub.closing")
	}
	client := checkedClient(t, &http.Transport{DisableKeepAlives: true})
	publish := func(data string) {
		t.Helper()
		res, err := client.Post("http://"+p.addr+"/v1/tenants/acme/events", "application/json", strings.NewReader(fmt.Sprintf(`{"type":"a.b","payload":%q}`, data)))
		is.NoErr(err)
		res.Body.Close()
		is.Equal(res.StatusCode, http.StatusAccepted)
	}
	publish(strings.Repeat("x", size) + "first")
	for _, l := range all {
		l.until(t, "xfirst", "hub.closing")
	}
	publish("second")
	for _, l := range all {
		l.until(t, "second", "hub.closing") // each is still open
	}
	for _, l := range all {
		l.Close()
	}
	p.stop()
	is.True(!strings.Contains(p.logs.String(), "slow")) // nobody was relieved
}

// What the budget costs those who do not read is told by number, and not a line a
// stream; who reads is none of them.
func TestReliefIsToldByNumber(t *testing.T) {
	alone(t, "its hub has a budget of its own")
	is := is.New(t)
	const budget, stalled, size = 8 << 20, 40, 60_000
	p := runProgram(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget), "REALTIME_STREAM_BUFFER=0")
	open := func(profile string) *bareStream {
		conn, err := net.Dial("tcp", p.addr)
		is.NoErr(err)
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=%s HTTP/1.1\r\nHost: %s\r\n\r\n", profile, p.addr)
		s := &bareStream{Conn: conn}
		s.until(t, "event: hub.ready\n", "hub.closing")
		return s
	}
	var all []*bareStream
	for i := range stalled {
		all = append(all, open(fmt.Sprint("stalled:", i)))
	}
	reader := open("reader")
	client := checkedClient(t, &http.Transport{DisableKeepAlives: true})
	filler := strings.Repeat("x", size)
	for n := range 12 {
		var lines strings.Builder
		for i := range stalled {
			fmt.Fprintf(&lines, `{"tenantId":"acme","type":"a.b","payload":%q,"target":{"kind":"profile","profiles":["stalled:%d"]}}`+"\n", filler, i)
		}
		fmt.Fprintf(&lines, `{"tenantId":"acme","type":"a.b","payload":"mark-%d.","target":{"kind":"profile","profiles":["reader"]}}`+"\n", n)
		res, err := client.Post("http://"+p.addr+"/v1/events", "application/x-ndjson", strings.NewReader(lines.String()))
		is.NoErr(err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		reader.until(t, fmt.Sprintf("mark-%d.", n), "hub.closing")
	}
	for _, s := range all {
		s.Close()
	}
	reader.Close()
	p.stop()
	logs := p.logs.String()
	is.True(strings.Contains(logs, "memory budget"))
	is.True(strings.Contains(logs, "budget=8388608"))
	is.True(strings.Contains(logs, `msg="streams cut" reason=slow streams=`))
	is.True(strings.Count(logs, "level=WARN") < stalled/2) // not a line a stream
	is.True(!strings.Contains(logs, "tenant=acme"))
}

func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var n atomic.Int64
		told := make(chan int64, 10)
		p := pace.Reporter{Say: func() { told <- n.Swap(0) }}
		tell := func(times int) {
			for range times {
				n.Add(1)
				p.Tell()
			}
		}
		said := func(want ...int64) {
			t.Helper()
			synctest.Wait()
			is.Equal(len(told), len(want))
			for _, n := range want {
				is.Equal(<-told, n)
			}
		}
		tell(100)
		said(1)
		time.Sleep(1500 * time.Millisecond)
		said(99)
		tell(1)
		said()
		time.Sleep(10 * time.Second)
		said(1)
		tell(1)
		said(1) // at once, after a rest
		time.Sleep(10 * time.Second)
		said()
	})
}
