package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/sse"
)

// process is a hub in a process of its own, whose memory is its own.
type process struct {
	addr string
	pid  int
	logs *bytes.Buffer // to be read once it has ended
	end  func()
}

// startProcess builds the hub as users do, without the race detector, and starts it.
func startProcess(t *testing.T, settings ...string) *process {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "hub")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	logs, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = append(append(os.Environ(), "REALTIME_ADDR=127.0.0.1:0", "REALTIME_PRESENCE_AUDIENCE=none"), settings...)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &process{pid: cmd.Process.Pid, logs: new(bytes.Buffer)}
	listening, read := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			p.logs.WriteString(lines.Text() + "\n")
			if _, addr, ok := strings.Cut(lines.Text(), "url=http://"); ok {
				listening <- addr
			}
		}
	}()
	p.end = func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-read
		cmd.Wait()
		logs.Close()
	}
	t.Cleanup(p.end)
	select {
	case p.addr = <-listening:
	case <-time.After(10 * time.Second):
		t.Fatal("the hub does not listen")
	}
	return p
}

// peak is the process's largest resident memory so far, in bytes.
func (p *process) peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kb), " kB"))
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// subscribe opens a stream and reads its head and hub.ready, and nothing more.
func subscribe(t *testing.T, addr, profile string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ready(t, conn, addr, profile)
	return conn
}

func ready(t *testing.T, conn net.Conn, addr, profile string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=%s HTTP/1.1\r\nHost: %s\r\n\r\n", profile, addr)
	var got []byte
	for b := make([]byte, 1); !bytes.Contains(got, []byte("hub.ready\ndata: ")) || !bytes.HasSuffix(got, []byte("\n\n")); {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got = append(got, b...)
	}
	conn.SetDeadline(time.Time{})
}

// A flood of events to clients that do not read stays within the memory budget
// and what the history may take, and a client that reads does not notice.
func TestAFloodStaysWithinTheMemoryBudget(t *testing.T) {
	is := is.New(t)
	const budget, history, stalled, events = 128 << 20, 32 << 20, 200, 12_000
	p := startProcess(t, fmt.Sprint("REALTIME_MEMORY_BUDGET=", budget), fmt.Sprint("REALTIME_HISTORY_TOTAL_BYTES=", history), "REALTIME_STREAM_BUFFER=0")
	for i := range stalled {
		subscribe(t, p.addr, fmt.Sprint("stalled-", i))
	}
	healthy := subscribe(t, p.addr, "healthy")

	// Events of their own for each, so that none of the memory is shared.
	pr, pw := net.Pipe()
	const every = 100
	go func() {
		defer pw.Close()
		filler := strings.Repeat("x", 60<<10)
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
		res, err := http.Post("http://"+p.addr+"/v1/events", "application/x-ndjson", pr)
		if err == nil {
			_, err = answer.ReadFrom(res.Body)
			res.Body.Close()
		}
		posted <- err
	}()
	healthy.SetReadDeadline(time.Now().Add(60 * time.Second))
	reader := sse.NewReader(healthy)
	for range events / every {
		event, err := reader.Next()
		is.NoErr(err)
		is.Equal(event.Type, "a.b") // never a gap, never closing
	}
	is.NoErr(<-posted)
	is.True(strings.Contains(answer.String(), fmt.Sprintf(`{"accepted":%d,"refused":0`, events))) // a publish never fails for it
	peak := p.peak(t)
	t.Logf("peak %d MiB of %d", peak>>20, (budget+history)>>20)
	is.True(peak <= (budget+history)*115/100) // both + 15 %
	http.DefaultClient.CloseIdleConnections()
	p.end()
	is.True(strings.Contains(p.logs.String(), "reason=slow")) // each cut says why
}

// A peer that vanishes without a word, as a laptop does whose lid is closed, is
// gone within 25 s.
func TestAVanishedPeerIsGone(t *testing.T) {
	is := is.New(t)
	name := "rt" + strconv.Itoa(os.Getpid()%100_000)
	run := func(args ...string) error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if setns == 0 {
		t.Skip("no number for setns on ", runtime.GOARCH)
	}
	if err := run("netns", "add", name); err != nil {
		t.Skip("network namespaces are not allowed here: ", err)
	}
	defer run("netns", "del", name)
	is.NoErr(run("link", "add", name, "type", "veth", "peer", "name", "peer", "netns", name))
	is.NoErr(run("addr", "add", "198.18.0.1/30", "dev", name))
	is.NoErr(run("link", "set", name, "up"))
	is.NoErr(run("-n", name, "addr", "add", "198.18.0.2/30", "dev", "peer"))
	is.NoErr(run("-n", name, "link", "set", "peer", "up"))

	p := startProcess(t, "REALTIME_ADDR=198.18.0.1:0", "REALTIME_DANGEROUSLY_OPEN=true", "REALTIME_PRESENCE_GRACE=0", "REALTIME_PRESENCE_AUDIENCE=tenant")
	idle, busy := dialFrom(t, name, p.addr), dialFrom(t, name, p.addr)
	ready(t, idle, p.addr, "idle")
	ready(t, busy, p.addr, "busy")
	seer := subscribe(t, p.addr, "seer")
	is.NoErr(run("-n", name, "link", "set", "peer", "down")) // not a byte comes or goes from now on
	vanished := time.Now()

	res, err := http.Post("http://"+p.addr+"/v1/events", "application/json",
		strings.NewReader(`{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"profile","profiles":["busy"]}}`))
	is.NoErr(err)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()

	seer.SetReadDeadline(vanished.Add(25 * time.Second))
	reader := sse.NewReader(seer)
	for offline := 0; offline < 2; {
		event, err := reader.Next()
		is.NoErr(err) // both are offline within 25 s
		if event.Type == "presence.offline" {
			offline++
			t.Logf("%s after %v", event.Data, time.Since(vanished))
		}
	}
}

// setns is the system call's number, for which package syscall has no name; 0
// where we do not know it.
var setns = map[string]uintptr{"amd64": 308, "arm64": 268}[runtime.GOARCH]

// dialFrom connects from within a network namespace.
func dialFrom(t *testing.T, namespace, addr string) net.Conn {
	t.Helper()
	type dialed struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialed)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + namespace)
		if err != nil {
			done <- dialed{nil, err}
			return
		}
		defer file.Close()
		if _, _, errno := syscall.RawSyscall(setns, file.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			done <- dialed{nil, os.NewSyscallError("setns", errno)}
			return
		}
		conn, err := net.Dial("tcp", addr)
		done <- dialed{conn, err}
	}()
	d := <-done
	if d.err != nil {
		t.Fatal(d.err)
	}
	t.Cleanup(func() { d.conn.Close() })
	return d.conn
}
