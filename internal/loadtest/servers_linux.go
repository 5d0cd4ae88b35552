//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"realtimehub/internal/loadtest/reader"
)

// payload is what every event carries, the same to every server.
var payload = strings.Repeat("0123456789", 20)

// server is one that is measured, and how to speak to it.
type server struct {
	name   string // hub, or what is beside it
	door   door   // by which the hub's streams come
	tenant string // the hub's: another each time, since one hub may serve several rows
	cursor string // from where the hub's streams resume, if any
	host   string // as the hub wants it in Host
	addr   netip.AddrPort
	acks   bool // the streams' clients acknowledge
	pids   []int
	stop   func()
}

// quiet is how long a server must be silent until what its streams cause is
// over: the hub gathers presence for a second.
func (s *server) quiet() time.Duration {
	if s.name == "hub" {
		return 2 * time.Second
	}
	return 200 * time.Millisecond
}

// publish is the request for one event to the hub.
func (s *server) publish(target map[string]any) []byte {
	return s.request("POST", "/v1/events", "application/json", s.event(target))
}

func (s *server) event(target map[string]any) []byte {
	event, err := json.Marshal(map[string]any{"tenantId": s.tenant, "type": "load.test", "payload": payload, "target": target})
	if err != nil {
		panic(err) // of strings alone
	}
	return event
}

func (s *server) request(method, path, kind string, body []byte) []byte {
	head := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", method, path, s.host, kind, len(body))
	return append(head, body...)
}

// spent is the CPU time in µs that the server spends on each of n, while
// something is done.
func (s *server) spent(n int, do func() error) (float64, error) {
	before, err := cpuOf(s.pids)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := cpuOf(s.pids)
	return micros(after-before, n), err
}

// ran is spent to the nanosecond, for short times.
func (s *server) ran(n int, do func() error) (float64, error) {
	before, err := ranFor(s.pids)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := ranFor(s.pids)
	return micros(after-before, n), err
}

// writes is how many write calls a hub has made for events; of other servers it is not known: 0.
func (s *server) writes() (n int64, err error) {
	if s.name != "hub" {
		return 0, nil
	}
	res, err := http.Get("http://" + s.addr.String() + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	_, count, _ := strings.Cut(string(text), "\nrealtime_publish_to_write_seconds_count ")
	line, _, _ := strings.Cut(count, "\n")
	return strconv.ParseInt(line, 10, 64)
}

func profile(i int) string { return "user:" + strconv.Itoa(i) }

func toProfile(i int) map[string]any {
	return map[string]any{"kind": "profile", "profiles": []string{profile(i)}}
}

// frameOf is an event as a chunk, of about so many bytes in all, as the hub writes it.
func frameOf(size int) []byte {
	event := fmt.Sprintf("data: %s\n\n", strings.Repeat("x", max(0, size-len("fff\r\n\r\ndata: \n\n"))))
	return fmt.Appendf(nil, "%x\r\n%s\r\n", len(event), event)
}

// textOf is the text of a frame of about so many bytes in all.
func textOf(size int) []byte {
	return bytes.Repeat([]byte("x"), max(reader.SmallestEvent, size-4))
}

// nursery starts servers and sees to it that none outlives us.
type nursery struct {
	dir    string // ours, of temporary files
	core   int    // the servers'
	client int    // our own core

	mu   sync.Mutex
	live map[int]bool // process groups
}

// end kills every server and removes the files.
func (n *nursery) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for pid := range n.live {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
	os.RemoveAll(n.dir)
}

// start starts a server and waits until it takes connections. It is called by
// the main thread only: the child inherits that thread's core and ends with it.
func (n *nursery) start(name string, command func(addr string) (*exec.Cmd, error)) (*server, error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := free.Addr().String()
	free.Close()
	cmd, err := command(addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	log, err := os.CreateTemp(n.dir, name+"*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}

	n.mu.Lock()
	defer n.mu.Unlock()
	if err := pinThread(0, n.core); err != nil {
		return nil, err
	}
	err = cmd.Start()
	if err := errors.Join(err, pinThread(0, n.client)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	pid := cmd.Process.Pid
	n.live[pid] = true
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	s := &server{name: name, host: addr, addr: netip.MustParseAddrPort(addr), stop: func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		syscall.Kill(-pid, syscall.SIGKILL)
		<-exited
		delete(n.live, pid)
	}}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-exited:
			err = errors.New("it ended")
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		said, _ := os.ReadFile(log.Name())
		syscall.Kill(-pid, syscall.SIGKILL)
		delete(n.live, pid)
		return nil, fmt.Errorf("%s did not start: %w: %s", name, err, bytes.TrimSpace(said))
	}
	time.Sleep(300 * time.Millisecond) // its start is not to be measured
	s.pids, err = family(pid)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// hub starts a hub with more settings. It never sees a profile as away, which
// would be an event in the midst of counting.
func (n *nursery) hub(binary string, settings ...string) (*server, error) {
	return n.start("hub", func(addr string) (*exec.Cmd, error) {
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "REALTIME_ADDR="+addr, "REALTIME_PRESENCE_AUDIENCE=tenant", "REALTIME_IDLE_TIMEOUT=0")
		cmd.Env = append(cmd.Env, settings...)
		return cmd, nil
	})
}

// nats starts the i-th nats-server, of a cluster if there are several routes.
func (n *nursery) nats(binary, dir string, i int, routes []string) (*server, error) {
	name := fmt.Sprint("nats", i)
	return n.start(name, func(addr string) (*exec.Cmd, error) {
		host, port, err := net.SplitHostPort(addr)
		args := []string{"-n", name, "-a", host, "-p", port, "-js", "-sd", filepath.Join(dir, name)}
		if len(routes) > 1 {
			args = append(args, "-cluster_name", "load", "-cluster", routes[i], "-routes", strings.Join(routes, ","))
		}
		return exec.Command(binary, args...), err
	})
}

func (n *nursery) bare() (*server, error) {
	return n.start("bare", func(addr string) (*exec.Cmd, error) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1", bareVariable+"="+addr)
		return cmd, nil
	})
}

// running is a hub that somebody else started.
func running(base string) (*server, error) {
	at, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	if at.Scheme != "http" || at.Port() == "" {
		return nil, fmt.Errorf("-url %s: want http://host:port", base)
	}
	tcp, err := net.ResolveTCPAddr("tcp4", at.Host)
	if err != nil {
		return nil, fmt.Errorf("-url: %w", err)
	}
	pid, err := listener(tcp.Port)
	if err != nil {
		return nil, fmt.Errorf("-url: %w", err)
	}
	addr := tcp.AddrPort()
	return &server{name: "hub", host: at.Host, addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), pids: []int{pid}, stop: func() {}}, nil
}
