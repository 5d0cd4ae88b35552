package natstest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Processes are servers in processes of their own, to be killed.
type Processes struct {
	binary  string
	host    string
	dir     string
	ports   []int
	cluster []int
	cmds    []*exec.Cmd
}

// built is where binary is, to be removed by Clean.
var built string

// Clean removes what tests have built. TestMain calls it.
func Clean() { os.RemoveAll(built) }

// Program is what a test starts, if it was built already: CI does so once for all packages,
// into the folder that TEST_PROGRAMS names.
func Program(name string) (path string, ok bool) {
	dir := os.Getenv("TEST_PROGRAMS")
	return filepath.Join(dir, name), dir != ""
}

// binary is built once for all tests of a process.
var binary = sync.OnceValues(func() (string, error) {
	if path, ok := Program("nats-server"); ok {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "nats-server")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "nats-server")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/nats-io/nats-server/v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as CI builds the hub, whatever detector the tests have: it is compiled once
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// Binary is the path of a server, which is built once.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// StartProcesses starts n servers on loopback, which end with the test.
func StartProcesses(t testing.TB, n int) *Processes {
	t.Helper()
	return StartProcessesOn(t, "127.0.0.1", n)
}

// StartProcessesOn starts n servers on an address of this machine's.
func StartProcessesOn(t testing.TB, host string, n int) *Processes {
	t.Helper()
	p := &Processes{binary: Binary(t), host: host, dir: t.TempDir(), cmds: make([]*exec.Cmd, n)}
	for range n {
		p.ports, p.cluster = append(p.ports, FreePort(t)), append(p.cluster, FreePort(t))
	}
	t.Cleanup(func() {
		for i := range p.cmds {
			p.Kill(i)
		}
	})
	for i := range n {
		p.Start(t, i)
	}
	for i := range n {
		p.Await(t, i)
	}
	return p
}

// Start starts server i, with what it kept.
func (p *Processes) Start(t testing.TB, i int) {
	t.Helper()
	config := fmt.Sprintf("server_name: n%d\nlisten: %s:%d\njetstream { store_dir: %q }\n", i, p.host, p.ports[i], filepath.Join(p.dir, fmt.Sprint(i)))
	if len(p.ports) > 1 {
		var routes []string
		for _, port := range p.cluster {
			routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
		}
		config += fmt.Sprintf("cluster { name: test, listen: 127.0.0.1:%d, routes: [%s] }\n", p.cluster[i], strings.Join(routes, ", "))
	}
	path := filepath.Join(p.dir, fmt.Sprintf("%d.conf", i))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.binary, "-c", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmds[i] = cmd
}

// Await waits until server i takes connections.
func (p *Processes) Await(t testing.TB, i int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", fmt.Sprint(p.host, ":", p.ports[i]))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the broker does not start: ", err)
		}
	}
}

// Kill ends server i at once, as a crash does.
func (p *Processes) Kill(i int) {
	if p.cmds[i] != nil {
		p.cmds[i].Process.Kill()
		p.cmds[i].Wait()
		p.cmds[i] = nil
	}
}

// Signal sends server i a signal.
func (p *Processes) Signal(i int, s os.Signal) { p.cmds[i].Process.Signal(s) }

// PID is of server i's process.
func (p *Processes) PID(i int) int { return p.cmds[i].Process.Pid }

// URL is of server i.
func (p *Processes) URL(i int) string { return fmt.Sprint("nats://", p.host, ":", p.ports[i]) }

// URLs are of all servers, as clients take them.
func (p *Processes) URLs() string {
	var urls []string
	for i := range p.ports {
		urls = append(urls, p.URL(i))
	}
	return strings.Join(urls, ",")
}
