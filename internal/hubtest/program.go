package hubtest

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// Program is a hub in a process of its own.
type Program struct {
	Hub
	Addr string // host:port
	PID  int
	Logs *testkit.Buffer

	process *os.Process
	wait    func() *os.ProcessState
	ended   chan struct{} // closed once it has ended
	asked   atomic.Bool   // the test has ended it, or waited for its end
	told    atomic.Bool   // the test has sent it a signal to end
	failed  atomic.Bool   // it had failed before, or failed then
	late    atomic.Bool   // it had to be killed
}

// Start starts the hub on a free port of loopback, with the default settings but for
// those that are given, as lines of an environment are. It ends with the test. The hub
// has the race detector if the test has it.
func Start(t testing.TB, settings ...string) *Program {
	t.Helper()
	return StartBinary(t, Binary(t), settings...)
}

// StartPlain is Start of a hub without the race detector, as users build it: for tests
// that look at what it costs.
func StartPlain(t testing.TB, settings ...string) *Program {
	t.Helper()
	return StartBinary(t, PlainBinary(t), settings...)
}

// Binary is the hub's program, built once for all tests of a process, with the race
// detector if they have it.
func Binary(t testing.TB) string {
	t.Helper()
	if testkit.RaceDetector {
		return built(t, withDetector)
	}
	return PlainBinary(t)
}

// PlainBinary is the hub's program as users build it.
func PlainBinary(t testing.TB) string {
	t.Helper()
	return built(t, plain)
}

func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

var (
	plain        = sync.OnceValues(func() (string, error) { return build("realtimehub") })
	withDetector = sync.OnceValues(func() (string, error) { return build("realtimehub-race", "-race") })
)

// folders has what was built, to be removed by clean.
var folders struct {
	mu    sync.Mutex
	names []string // guarded by mu
}

// build builds the hub's program, if CI has not ([natstest.Program]).
func build(name string, flags ...string) (string, error) {
	if path, ok := natstest.Program(name); ok {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "hub")
	if err != nil {
		return "", err
	}
	folders.mu.Lock()
	folders.names = append(folders.names, dir)
	folders.mu.Unlock()
	binary := filepath.Join(dir, name)
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	cmd := exec.Command("go", append(append([]string{"build", "-ldflags=-s -w"}, flags...), "-o", binary, ".")...)
	cmd.Dir, cmd.Env = Root(), os.Environ()
	if slices.Contains(flags, "-race") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // whatever it is for all else
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

func clean() {
	folders.mu.Lock()
	defer folders.mu.Unlock()
	for _, dir := range folders.names {
		os.RemoveAll(dir)
	}
}

// listensAt finds the hub's address in its log, as text and as JSON.
var listensAt = regexp.MustCompile(`msg"?[=:]"?listening"?[ ,]"?url"?[=:]"?(https?://[^\s"]+)`)

// StartBinary is Start of a program that is there: a hub of another version, or a script
// that becomes the hub.
func StartBinary(t testing.TB, binary string, settings ...string) *Program {
	t.Helper()
	cmd := exec.Command(binary)
	for _, line := range os.Environ() {
		if !strings.HasPrefix(line, "REALTIME_") && !strings.HasPrefix(line, "GO") {
			cmd.Env = append(cmd.Env, line)
		}
	}
	cmd.Env = append(append(cmd.Env, testkit.QuickEnd, "REALTIME_ADDR=127.0.0.1:0"), settings...)
	logs, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &Program{PID: cmd.Process.Pid, Logs: new(testkit.Buffer), process: cmd.Process, ended: make(chan struct{})}
	listening := make(chan string, 1)
	go func() {
		defer close(p.ended)
		for lines := bufio.NewReader(logs); ; {
			line, err := lines.ReadString('\n')
			p.Logs.Write([]byte(line))
			if found := listensAt.FindStringSubmatch(line); found != nil {
				listening <- found[1]
			}
			if err != nil {
				return
			}
		}
	}()
	p.wait = sync.OnceValue(func() *os.ProcessState {
		<-p.ended
		cmd.Wait()
		logs.Close()
		return cmd.ProcessState
	})
	t.Cleanup(func() { p.cleanup(t) })
	select {
	case p.URL = <-listening:
	case <-p.ended:
		t.Fatalf("the hub does not start:\n%s", p.Logs)
	case <-time.After(time.Minute):
		t.Fatalf("the hub does not listen:\n%s", p.Logs)
	}
	_, p.Addr, _ = strings.Cut(p.URL, "://")
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	p.Client = CheckedClient(t, transport)
	return p
}

// cleanup ends the program, which must not have failed before, and must end well and soon.
func (p *Program) cleanup(t testing.TB) {
	asked := p.asked.Load()
	state := p.Stop()
	if p.late.Load() {
		t.Errorf("the hub did not end within a minute:\n%s", p.Logs)
	} else if p.failed.Load() || !asked && failed(state) {
		t.Errorf("the hub ended with %v:\n%s", state, p.Logs)
	}
	if strings.Contains(p.Logs.String(), "WARNING: DATA RACE") {
		t.Errorf("the hub has a race:\n%s", p.Logs)
	} else if t.Failed() {
		lines := strings.SplitAfter(p.Logs.String(), "\n")
		t.Logf("the last of what the hub at %s wrote:\n%s", p.URL, strings.Join(lines[max(0, len(lines)-lastLines):], ""))
	}
}

// failed says that a program that nobody has killed ended badly.
func failed(state *os.ProcessState) bool {
	return runtime.GOOS != "windows" && state.ExitCode() != 0 // Windows has no SIGTERM
}

// lastLines are of a hub's log, which may help to see why a test has failed.
const lastLines = 40

// Signal sends a signal to the program. The test fails if it has failed before one that ends it.
func (p *Program) Signal(s syscall.Signal) {
	if s == syscall.SIGTERM {
		p.isToEnd()
	}
	if p.process.Signal(s) != nil && s == syscall.SIGTERM {
		p.process.Kill() // it is over, or this is Windows
	}
}

// isToEnd notes that the test ends the program, and says whether it is the first to.
func (p *Program) isToEnd() (first bool) {
	if p.asked.Load() || p.told.Swap(true) {
		return false
	}
	select {
	case <-p.ended:
		p.failed.Store(failed(p.wait()))
		return false
	default:
		return true
	}
}

// Wait waits for the program's end, and says how it ended.
func (p *Program) Wait() *os.ProcessState {
	p.asked.Store(true)
	return p.wait()
}

// Stop ends the program as SIGTERM does, and waits for its end. The test fails if the program
// does not end well then, or not within a minute, after which it is killed.
func (p *Program) Stop() *os.ProcessState {
	first := p.isToEnd()
	p.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(time.Minute, func() {
		p.late.Store(true)
		p.process.Kill()
	})
	defer kill.Stop()
	state := p.Wait()
	if first && failed(state) {
		p.failed.Store(true)
	}
	return state
}

// Kill ends the program as SIGKILL does, and waits for its end. The test fails if it has failed
// before.
func (p *Program) Kill() {
	p.isToEnd()
	p.process.Kill()
	p.Wait()
}

// Main runs a package's tests, removes what they built, and fails a run that leaves
// goroutines behind. TestMain calls it.
func Main(m *testing.M) {
	testkit.Main(m, func() {
		natstest.Clean()
		clean()
	})
}
