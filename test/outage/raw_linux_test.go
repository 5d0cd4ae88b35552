package outage

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/hubtest"
)

// listener reads a stream in the background.
type listener struct {
	seen []string // what until has passed, as "type payload" or "type profile"
	all  chan string
}

func listen(t *testing.T, addr, profile string) *listener {
	t.Helper()
	l := &listener{all: make(chan string, 1000)}
	conn := hubtest.Subscribe(t, addr, profile)
	go func() {
		reader := hubtest.NewReader(t, conn)
		for {
			ev, err := reader.Next()
			if err != nil {
				close(l.all)
				return
			}
			var e struct{ Payload json.RawMessage }
			json.Unmarshal([]byte(ev.Data), &e)
			var about struct{ Profile struct{ ID string } }
			word := string(e.Payload)
			if json.Unmarshal(e.Payload, &about) == nil {
				word = about.Profile.ID
			}
			l.all <- ev.Type + " " + word
		}
	}()
	return l
}

// until reads on to a certain event.
func (l *listener) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case word, open := <-l.all:
			if !open {
				t.Fatalf("the stream has ended before %q, after %q", want, l.seen)
			}
			l.seen = append(l.seen, word)
			if word == want {
				return
			}
		case <-deadline:
			t.Fatalf("no %q, but %q", want, l.seen)
		}
	}
}

// accepts has a hub take a number to all, which is sent again while the broker is slow to
// confirm it.
func accepts(t *testing.T, addr string, n int) {
	t.Helper()
	eventually(t, func() bool {
		status, text := publishAt(t, addr, n)
		if status != http.StatusAccepted && !strings.Contains(text, `"code":"Unconfirmed"`) {
			t.Fatalf("%d is not taken: %s", n, text)
		}
		return status == http.StatusAccepted
	})
}

// publishAt publishes a number to all, by its id. It dials in the thread's network, as
// http.Client's goroutines would not.
func publishAt(t *testing.T, addr string, n int) (status int, text string) {
	t.Helper()
	body := fmt.Sprintf(`{"id":"number-%d","tenantId":"acme","type":"a.b","payload":%d,"target":{"kind":"tenant"}}`, n, n)
	return rawAnswer(t, addr, fmt.Sprintf("POST /v1/events HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", addr, len(body), body))
}

func statusOf(t *testing.T, addr, path string) int {
	t.Helper()
	status, _ := rawAnswer(t, addr, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, addr))
	return status
}

func rawAnswer(t *testing.T, addr, request string) (status int, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) < 12 {
		t.Fatalf("%q: %v", answer, err)
	}
	status, _ = strconv.Atoi(string(answer[9:12]))
	return status, string(answer)
}
