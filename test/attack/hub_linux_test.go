package attack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What a hub has in these tests: its plan (README, Settings) is 11/16 of the memory.
const (
	memory = 1 << 30
	plan   = memory / 16 * 11
)

// Credentials. The keys are of the tenant that attacks, of the one that behaves, and of
// the operator.
const (
	secret  = "the-secret-of-tokens-that-no-one-else-has"
	keyEvil = "the-key-of-acme-which-has-32-characters"
	keyWell = "the-key-of-well-which-has-32-characters"
	keyAll  = "the-key-of-the-operator-who-may-see-all"
)

// The tenants: who attacks, and who does nothing.
const (
	evil = "acme"
	well = "well"
)

// token is a person's, of a tenant.
func token(tenant, profile string) string {
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"tenant": tenant, "sub": profile, "exp": time.Now().Add(time.Hour).Unix(),
	}).SignedString([]byte(secret))
	if err != nil {
		panic(err) // of a secret and of claims that are fixed
	}
	return text
}

// process is a hub that runs.
type process struct {
	port  string
	pid   int
	ended chan struct{} // closed when it is gone

	mu sync.Mutex
	// Guarded by mu.
	logs strings.Builder
	peak int // bytes of resident memory
}

// start starts a hub that may have so much memory, and ends it with the test. The shell
// sets the limit and becomes the hub.
func start(t *testing.T, binary string, settings ...string) *process {
	t.Helper()
	cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -d %d && exec "$0"`, memory>>10), binary)
	for _, line := range os.Environ() {
		if !strings.HasPrefix(line, "REALTIME_") && !strings.HasPrefix(line, "GO") {
			cmd.Env = append(cmd.Env, line)
		}
	}
	cmd.Env = append(cmd.Env,
		"REALTIME_ADDR=0.0.0.0:0", // so that an attack may come from an address that is not loopback's
		"REALTIME_JWT_SECRET="+secret,
		fmt.Sprintf("REALTIME_API_KEYS=%s=%s,%s=%s,*=%s", evil, keyEvil, well, keyWell, keyAll))
	cmd.Env = append(cmd.Env, settings...)
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &process{pid: cmd.Process.Pid, ended: make(chan struct{})}
	listening := make(chan string, 1)
	go func() {
		defer close(p.ended)
		lines := bufio.NewReader(stderr)
		for {
			line, err := lines.ReadString('\n')
			p.mu.Lock()
			p.logs.WriteString(line)
			p.mu.Unlock()
			if _, url, ok := strings.Cut(line, "msg=listening url=http://"); ok {
				_, port, _ := net.SplitHostPort(strings.TrimSpace(url))
				listening <- port
			}
			if err != nil {
				break
			}
		}
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(30 * time.Second):
			t.Error("the hub does not end")
			cmd.Process.Kill()
			<-p.ended
		}
	})
	select {
	case p.port = <-listening:
	case <-p.ended:
		t.Fatalf("the hub does not start:\n%s", p.said())
	case <-time.After(time.Minute):
		t.Fatal("the hub does not listen")
	}
	go p.watch()
	return p
}

// said is the end of what the hub logged.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	const most = 2 << 10
	text := p.logs.String()
	if i := strings.Index(text, "\n\ngoroutine "); i > 0 { // of a crash the reason is enough
		text = text[:i]
	}
	return text[max(0, len(text)-most):]
}

// near is where the hub listens for its friends.
func (p *process) near() string { return "127.0.0.1:" + p.port }

// far is the same from an address that is not loopback's, where the machine has one.
func (p *process) far() string {
	addrs, _ := net.InterfaceAddrs()
	for _, addr := range addrs {
		if n, ok := addr.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return net.JoinHostPort(n.IP.String(), p.port)
		}
	}
	return p.near()
}

// resident is how much memory the process takes now, and took at most, in bytes.
func (p *process) resident() (now, most int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "VmRSS":
			now = kib << 10
		case "VmHWM":
			most = kib << 10
		}
	}
	if now == 0 {
		err = errors.New("the process is gone")
	}
	return now, most, err
}

// watch keeps what the process took at most, also of one that dies.
func (p *process) watch() {
	for {
		if _, most, err := p.resident(); err == nil {
			p.mu.Lock()
			p.peak = most
			p.mu.Unlock()
		}
		select {
		case <-p.ended:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *process) peaked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peak
}

// kept is what the hub says that it keeps for others, in bytes.
func (p *process) kept() (int, error) {
	text, err := ask(p.near(), "/metrics", keyAll)
	if err != nil {
		return 0, err
	}
	sum := 0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "realtime_history_bytes", `realtime_quota_bytes{quota="state"}`, `realtime_quota_bytes{quota="ids"}`:
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, err
			}
			sum += int(n)
		}
	}
	return sum, nil
}

// collected is what the hub keeps for others, and how much memory it takes, once what it left
// was collected: by itself it gives back a large heap seldom, and Go collects once in two minutes.
func (p *process) collected() (kept, resident int, err error) {
	if _, err = ask(p.near(), "/debug/pprof/heap?gc=1", keyAll); err != nil {
		return 0, 0, err
	}
	if kept, err = p.kept(); err != nil {
		return 0, 0, err
	}
	resident, _, err = p.resident()
	return kept, resident, err
}

// ask gets a page over a connection of its own.
func ask(addr, path, key string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s %.200s", path, res.Status, body)
	}
	return string(body), err
}
