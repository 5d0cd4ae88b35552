package attack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// orderVariable makes a process of this program one that attacks.
const orderVariable = "ATTACK_ORDER"

// TestMain is the attacker's main, where the environment says so.
func TestMain(m *testing.M) {
	if text := os.Getenv(orderVariable); text != "" {
		attackAs(text)
		return
	}
	testkit.MostlyWaits(16) // for the stage
	hubtest.Main(m)
}

// command is what an attacker is to do.
type command struct {
	Attack string
	Addr   string
	Times  int           // as much is done
	Most   time.Duration // and then it ends
}

// send has another process attack, of one core and little priority: so that what is
// measured is not who gets the processor. It tells what came of the calls.
func send(ctx context.Context, c command) (tally map[string]int, err error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Most+20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nice", "-n", "10", os.Args[0])
	cmd.Env = append(os.Environ(), orderVariable+"="+string(text), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the attacker: %w", err)
	}
	err = json.Unmarshal(out, &tally)
	return tally, err
}

// attackAs attacks, holds what it has for a moment, and prints what came of it.
func attackAs(text string) {
	var c command
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.Most)
	defer cancel()
	a := &attacker{ctx: ctx, addr: c.Addr, times: c.Times, tally: map[string]int{}, client: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 100, DialContext: dialer(0).DialContext},
	}}
	attacks[c.Attack].do(a)
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	json.NewEncoder(os.Stdout).Encode(a.tally)
}

// attacker does what one should not.
type attacker struct {
	ctx    context.Context // ends with the attack
	addr   string
	times  int
	client *http.Client

	mu sync.Mutex
	// Guarded by mu.
	tally map[string]int
	kept  []net.Conn // open until the end
}

// count notes what came of a call, or of an attempt.
func (a *attacker) count(outcome string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tally[outcome] += n
}

// each does something n times, or as many times that as is asked for: so many times a
// second and in so many places at once.
func (a *attacker) each(n int, perSecond float64, atOnce int, do func(i int)) {
	limit := rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/100)))
	var wg sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := 0; i < n*a.times && limit.Wait(a.ctx) == nil; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
}

// call makes a call, reads the answer whole and notes it.
func (a *attacker) call(method, path, credential, kind string, body []byte) (status int) {
	req, err := http.NewRequestWithContext(a.ctx, method, "http://"+a.addr+path, bytes.NewReader(body))
	if err != nil {
		panic(err) // of a path that is fixed
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	req.Header.Set("Authorization", "Bearer "+credential)
	res, err := a.client.Do(req)
	if err != nil {
		if a.ctx.Err() == nil {
			a.count("cut", 1)
		}
		return 0
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	a.count(outcome(res.StatusCode, answer), 1)
	return res.StatusCode
}

func (a *attacker) post(path string, body []byte) int {
	return a.call("POST", path, keyEvil, "application/json", body)
}

// outcome is a status, and of a refusal its code.
func outcome(status int, answer []byte) string {
	var problem struct{ Code string }
	if status/100 != 2 && json.Unmarshal(answer, &problem) == nil && problem.Code != "" {
		return fmt.Sprint(status, " ", problem.Code)
	}
	return fmt.Sprint(status)
}

// dialer makes connections that take so few bytes before they are read; 0: as usual.
func dialer(receive int) *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		if receive == 0 {
			return nil
		}
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receive)
		}), err)
	}}
}

// connect opens a connection that stays open until the attack ends, and of which hardly
// anything is taken unless it is read; nil where there is none to be had.
func (a *attacker) connect() net.Conn {
	conn, err := dialer(4<<10).DialContext(a.ctx, "tcp", a.addr)
	if err != nil {
		if a.ctx.Err() == nil {
			a.count("no connection", 1)
		}
		return nil
	}
	until, _ := a.ctx.Deadline()
	conn.SetDeadline(until.Add(100 * time.Millisecond)) // what is cut before is not our doing
	a.mu.Lock()
	a.kept = append(a.kept, conn)
	a.mu.Unlock()
	return conn
}

// write says something on a connection that may be cut.
func (a *attacker) write(conn net.Conn, outcome, text string) bool {
	_, err := io.WriteString(conn, text)
	if err != nil && a.ctx.Err() == nil {
		outcome = "cut"
	}
	a.count(outcome, 1)
	return err == nil
}

// head is a request's; length below 0: what follows is chunked.
func head(method, path, credential, kind string, length int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: hub\r\n", method, path)
	if credential != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", credential)
	}
	if kind != "" {
		fmt.Fprintf(&b, "Content-Type: %s\r\n", kind)
	}
	switch {
	case length > 0:
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	case length < 0:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	}
	return b.String() + "\r\n"
}

// chunk is a part of a body that is chunked.
func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// stream opens a stream that is not read after hub.ready, and says its connection's id;
// "" where there is none to be had.
func (a *attacker) stream(profile, query string) (id string) {
	conn := a.connect()
	if conn == nil {
		return ""
	}
	credential := token(evil, profile)
	if _, err := io.WriteString(conn, head("GET", "/v1/stream?"+query, credential, "", 0)); err != nil {
		a.count("cut", 1)
		return ""
	}
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	if err != nil {
		if a.ctx.Err() == nil {
			a.count("cut", 1)
		}
		return ""
	}
	if res.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(res.Body)
		a.count(outcome(res.StatusCode, answer), 1)
		return ""
	}
	event, err := sse.NewReader(res.Body).Next()
	var ready struct{ ConnectionID, Reason string }
	if err == nil {
		err = json.Unmarshal([]byte(event.Data), &ready)
	}
	switch {
	case err != nil:
		a.count("cut", 1)
	case event.Type == "hub.closing":
		a.count("turned away: "+ready.Reason, 1)
	default:
		a.count("stream", 1)
	}
	return ready.ConnectionID
}

// batch is n events of one tenant with a payload of so many bytes; for whom and with
// which id, says more.
func batch(tenant string, n, size int, more func(i int) string) []byte {
	filler := strings.Repeat("x", max(0, size-len(`""`)))
	var b bytes.Buffer
	b.WriteString(`{"events":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"tenantId":%q,"type":"load.test","payload":%q,%s}`, tenant, filler, more(i))
	}
	b.WriteString("]}")
	return b.Bytes()
}

// toAll is an event's target.
func toAll(int) string { return `"target":{"kind":"tenant"}` }
