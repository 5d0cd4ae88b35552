package process

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// stockClient reads a stream as EventSource does: when it ends, or cannot be had, it
// comes back after the time that it was told.
type stockClient struct {
	answers []string // the first event of each stream that it was given, and how that began
	waits   int      // how often the hub had it come back, as its broker did not answer in time
	events  []string // of the first stream
	fault   error
}

// run ends after so many answers.
func (c *stockClient) run(addr, profile string, answers int, ready func()) {
	reader := sse.NewReader(nil)
	for len(c.answers) < answers {
		if conn, err := net.Dial("tcp", addr); err == nil {
			c.fault = c.read(conn, reader, profile, answers, ready)
			conn.Close()
		}
		if c.fault != nil {
			return
		}
		retry, _ := reader.Retry()
		time.Sleep(cmp.Or(retry, 50*time.Millisecond))
	}
}

func (c *stockClient) read(conn net.Conn, reader *sse.Reader, profile string, answers int, ready func()) error {
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=%s HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: %s\r\n\r\n", profile, reader.LastEventID())
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil // reset before it was answered, as a refused connection is
		}
		if line == "\r\n" {
			break
		}
	}
	reader.Reset(in)
	for first := true; ; first = false {
		event, err := reader.Next()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return err
		}
		if first {
			var data struct{ Reason, Resume string }
			json.Unmarshal([]byte(event.Data), &data)
			if data.Reason == "unavailable" { // the broker is busy with all the others
				if c.waits++; c.waits > 50 {
					return errors.New("the hub is unavailable for long")
				}
				return nil
			}
			c.answers = append(c.answers, strings.TrimSpace(event.Type+" "+data.Resume))
			ready()
		}
		if len(c.answers) == 1 && err == nil {
			c.events = append(c.events, event.Type)
		}
		if err != nil || len(c.answers) == answers {
			return nil
		}
	}
}

// A hub that knows of no other has nobody to send its clients to: it takes no more
// connections, answers what is being published, and ends all streams at once. Each
// client is with the next process after one reconnect, and none comes back before.
func TestDrainOfALoneHub(t *testing.T) {
	t.Parallel()
	for name, resume := range map[string]string{"in memory": "partial", "on NATS": "complete"} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			const clients = 50
			own := []string{fmt.Sprint("REALTIME_ADDR=127.0.0.1:", natstest.FreePort(t)), "REALTIME_DRAIN=1m", "REALTIME_RETRY=50ms"}
			if name == "on NATS" {
				own = append(own, "REALTIME_NATS_URL="+natstest.Start(t, 1).URL(0))
			}
			p := startProcess(t, own...)
			all := make([]stockClient, clients)
			var ready, done sync.WaitGroup
			ready.Add(clients)
			for i := range all {
				once := sync.OnceFunc(ready.Done)
				done.Go(func() { all[i].run(p.Addr, fmt.Sprint("p-", i), 2, once) })
			}
			ready.Wait()

			// A publish whose end comes when nobody can connect any more.
			publisher, err := net.Dial("tcp", p.Addr)
			is.NoErr(err)
			defer publisher.Close()
			event := hubtest.EventJSON("acme", "last.one", `{"kind":"tenant"}`, "1")
			fmt.Fprintf(publisher, "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(event))
			answers := bufio.NewReader(publisher)
			line, err := answers.ReadString('\n')
			is.NoErr(err)
			is.True(strings.Contains(line, "100 Continue")) // it is read
			answers.ReadString('\n')

			syscall.Kill(p.PID, syscall.SIGTERM)
			testkit.Eventually(t, func() bool {
				conn, err := net.Dial("tcp", p.Addr)
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			io.WriteString(publisher, event)
			res, err := http.ReadResponse(answers, nil)
			is.NoErr(err)
			is.Equal(res.StatusCode, http.StatusAccepted)

			start := time.Now()
			is.Equal(p.Wait().ExitCode(), 0)
			t.Logf("exit %v after the last publish", time.Since(start))
			next := startProcess(t, own...)
			is.Equal(next.Addr, p.Addr)
			done.Wait()
			for i := range all {
				is.NoErr(all[i].fault)
				is.True(all[i].waits == 0 || name == "on NATS")
				is.Equal(all[i].answers, []string{"hub.ready fresh", "hub.ready " + resume}) // one more
				is.Equal(all[i].events, []string{"hub.ready", "last.one", "hub.closing"})    // with what was published
			}
			is.True(strings.Contains(p.Logs.String(), "a second signal stops the hub at once"))
		})
	}
}

// Ctrl+C waits for nobody but who publishes, though others are there.
func TestInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	p, other := twoHubs(t, "REALTIME_DRAIN=1h")
	streams := []net.Conn{hubtest.Subscribe(t, p.Addr, "a"), hubtest.Subscribe(t, p.Addr, "b")}
	syscall.Kill(p.PID, syscall.SIGINT)
	is.Equal(p.Wait().ExitCode(), 0)
	for _, stream := range streams {
		event, err := hubtest.NewReader(t, stream).Next()
		is.NoErr(err)
		is.Equal(event.Type, "hub.closing")
	}
	is.True(strings.Contains(p.Logs.String(), "a second signal stops the hub at once"))
	other.Kill() // it may not know yet that it is alone, and would wait for its own stream
}
