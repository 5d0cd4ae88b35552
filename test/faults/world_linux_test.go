package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// How many there are of both.
const (
	hubs    = 3
	servers = 3
)

// Settings of the hubs that are not the default.
const (
	kept      = 400             // HISTORY_EVENTS: some who are away for long are to be told that it is gone
	heartbeat = 2 * time.Second // how soon a client knows that its stream is dead is its own affair
	drain     = 2 * time.Second
	prefix    = "faults"
)

// world is hubs and servers, and the lines between them.
type world struct {
	t       *testing.T
	dir     string
	servers [servers]*server
	hubs    [hubs]*hub
	// lines are of a hub to a server, routes of a server to another.
	lines  [hubs][servers]*natstest.Proxy
	routes [servers][servers]*natstest.Proxy
	// Our own connections, past all proxies: to any server, and to each.
	nc   *nats.Conn
	each [servers]*nats.Conn

	r *record
}

// server is a NATS server.
type server struct {
	process
	name, dir, config, logs string
	port                    int
}

// hub is one of ours.
type hub struct {
	process
	binary string
	addr   string
	env    []string

	logs string // the file that it writes to
}

// process is one that is ended and begun again.
type process struct {
	mu sync.Mutex
	// Guarded by mu.
	cmd   *exec.Cmd
	ended chan struct{}
	asked bool // to end
	fell  int  // how often it has ended unasked
}

func (p *process) start(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.asked = cmd, ended, false
	go func() {
		cmd.Wait()
		p.mu.Lock()
		if p.cmd = nil; !p.asked {
			p.fell++
		}
		p.mu.Unlock()
		close(ended)
	}()
	return nil
}

// signal sends one, if it runs; the channel is closed when it has ended.
func (p *process) signal(s os.Signal) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.asked = p.asked || s == syscall.SIGTERM || s == syscall.SIGKILL
		p.cmd.Process.Signal(s)
	}
	if p.ended == nil {
		p.ended = make(chan struct{})
		close(p.ended)
	}
	return p.ended
}

// falls is how often it has ended unasked.
func (p *process) falls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fell
}

func (p *process) kill() { <-p.signal(syscall.SIGKILL) }

// newWorld starts all of it. A hub of each binary is started, in turn.
func newWorld(t *testing.T, binaries ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), r: newRecord(kept)}
	var cluster [servers]int
	for i := range servers {
		w.servers[i] = &server{name: fmt.Sprint("n", i), dir: filepath.Join(w.dir, fmt.Sprint("store", i)), logs: filepath.Join(w.dir, fmt.Sprintf("server%d.log", i)), port: natstest.FreePort(t)}
		cluster[i] = natstest.FreePort(t)
	}
	for i, s := range w.servers {
		var routes []string
		for k := range servers {
			if k != i {
				w.routes[i][k] = natstest.StartProxy(t, fmt.Sprint("nats://127.0.0.1:", cluster[k]))
				routes = append(routes, w.routes[i][k].URL())
			}
		}
		// Servers tell each other where others are: nobody is to be reached there, or they
		// would find a way past the proxies.
		s.config = filepath.Join(w.dir, s.name+".conf")
		text := fmt.Sprintf("server_name: %s\nlog_file: %q\nlisten: 127.0.0.1:%d\njetstream { store_dir: %q }\ncluster { name: test, listen: 127.0.0.1:%d, advertise: \"127.0.0.1:1\", no_advertise: true, routes: [%s] }\n",
			s.name, s.logs, s.port, s.dir, cluster[i], strings.Join(routes, ", "))
		if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for h := range hubs {
			w.lines[h][i] = natstest.StartProxy(t, fmt.Sprint("nats://127.0.0.1:", s.port))
		}
	}
	t.Cleanup(func() { // before the proxies end
		for _, h := range w.hubs {
			if h != nil {
				h.kill()
			}
		}
		for _, s := range w.servers {
			s.kill()
		}
	})
	for i := range servers {
		w.startServer(i)
	}
	for _, s := range w.servers {
		if !await(func() bool {
			conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", s.port))
			if err == nil {
				conn.Close()
			}
			return err == nil
		}) {
			t.Fatalf("server %s does not come:\n%s", s.name, w.said(s.logs))
		}
	}
	var urls []string
	for _, s := range w.servers {
		urls = append(urls, fmt.Sprint("nats://127.0.0.1:", s.port))
	}
	w.nc = w.connect(strings.Join(urls, ","))
	for i, url := range urls {
		w.each[i] = w.connect(url)
	}
	for i := range hubs {
		var lines []string
		for k := range servers {
			lines = append(lines, w.lines[i][(i+k)%servers].URL())
		}
		h := &hub{binary: binaries[i%len(binaries)], addr: fmt.Sprint("127.0.0.1:", natstest.FreePort(t)), logs: filepath.Join(w.dir, fmt.Sprintf("hub%d.log", i))}
		for _, line := range os.Environ() {
			if !strings.HasPrefix(line, "REALTIME_") && !strings.HasPrefix(line, "GO") {
				h.env = append(h.env, line)
			}
		}
		h.env = append(h.env, "REALTIME_ADDR="+h.addr, "REALTIME_NATS_URL="+strings.Join(lines, ","), fmt.Sprint("REALTIME_NATS_REPLICAS=", servers), "REALTIME_NATS_PREFIX="+prefix,
			fmt.Sprint(events, kept), "REALTIME_HEARTBEAT="+heartbeat.String(), "REALTIME_DRAIN="+drain.String(), "REALTIME_MEMORY_BUDGET=67108864")
		w.hubs[i] = h
		w.startHub(i)
	}
	for i := range hubs {
		w.awaitHub(i)
	}
	return w
}

func (w *world) connect(urls string) *nats.Conn {
	w.t.Helper()
	var nc *nats.Conn
	var err error
	if !testkit.Comes(func() bool { // a server that has just begun may be slow
		nc, err = nats.Connect(urls, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
		return err == nil
	}) {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	return nc
}

func (w *world) startServer(i int) {
	s := w.servers[i]
	if err := s.start(exec.Command(natstest.Binary(w.t), "-c", s.config)); err != nil {
		w.t.Error(err)
	}
}

func (w *world) startHub(i int) {
	h := w.hubs[i]
	cmd := exec.Command(h.binary)
	cmd.Env = h.env
	out, err := os.OpenFile(h.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		cmd.Stderr = out
		err = h.start(cmd)
		out.Close()
	}
	if err != nil {
		w.t.Error(err)
	}
}

func (w *world) awaitHub(i int) {
	if !await(func() bool {
		status, _, err := call(w.t.Context(), "GET", w.hubs[i].addr, "/readyz", nil)
		return err == nil && status == 200
	}) {
		for _, s := range w.servers {
			w.t.Logf("%s: %s", s.name, w.said(s.logs))
		}
		w.t.Fatalf("hub %d does not come:\n%s", i, w.said(w.hubs[i].logs))
	}
}

// logs are the files to which hubs and servers write.
func (w *world) logs() (paths []string) {
	for _, h := range w.hubs {
		paths = append(paths, h.logs)
	}
	for _, s := range w.servers {
		paths = append(paths, s.logs)
	}
	return paths
}

// said is the end of a log.
func (w *world) said(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-3000):]
}

// await waits for what has to come, and says whether it came.
func await(is func() bool) bool {
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// cluster is what the servers say of the stream.
type cluster struct {
	Leader string
}

func (w *world) cluster() (c cluster, err error) {
	msg, err := w.nc.Request("$JS.API.STREAM.INFO."+prefix+"_journal", nil, time.Second)
	if err != nil {
		return c, err
	}
	var info struct{ Cluster cluster }
	err = json.Unmarshal(msg.Data, &info)
	return info.Cluster, err
}

// leader is the server that leads the stream; -1 where none does.
func (w *world) leader() int {
	c, err := w.cluster()
	if err != nil {
		return -1
	}
	return slices.IndexFunc(w.servers[:], func(s *server) bool { return s.name == c.Leader })
}

// whole waits until all servers have all: only then another may go.
func (w *world) whole() bool {
	js, err := jetstream.New(w.nc)
	if err != nil {
		return false
	}
	return await(func() bool {
		ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
		defer cancel()
		streams := js.ListStreams(ctx)
		n := 0
		for s := range streams.Info() {
			n++
			if s.Cluster == nil || s.Cluster.Leader == "" || len(s.Cluster.Replicas) != servers-1 {
				return false
			}
			for _, r := range s.Cluster.Replicas {
				if !r.Current || r.Offline || r.Lag > 0 {
					return false
				}
			}
		}
		return streams.Err() == nil && n > 0
	})
}
