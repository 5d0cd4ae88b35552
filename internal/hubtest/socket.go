package hubtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"realtimehub/internal/contracttest"
	"realtimehub/internal/sse"
)

// Socket is a stream of GET /v1/socket, on which its client can speak.
type Socket struct {
	*Stream
	Conn *websocket.Conn

	answers chan []byte
	said    unanswered
	mu      sync.Mutex
	end     error // guarded by mu; how the socket ended
}

// Answer is what a hub says to a command.
type Answer struct {
	N       *int
	OK      bool
	Problem *struct {
		Status       int
		Code, Detail string
		Errors       []struct{ Code, Field, Detail string }
	}
}

func openWebSocket(h *Hub, t testing.TB, query string, headers []string) *Stream {
	t.Helper()
	return h.DialSocket(t, query, headers...).Stream
}

// OpenSocket opens GET /v1/socket?query and reads hub.ready; headers are names and values.
func (h *Hub) OpenSocket(t testing.TB, query string, headers ...string) *Socket {
	t.Helper()
	s := h.DialSocket(t, query, headers...)
	s.begin(t)
	return s
}

// DialSocket is OpenSocket that reads nothing.
func (h *Hub) DialSocket(t testing.TB, query string, headers ...string) *Socket {
	t.Helper()
	conn, err := h.dialSocket("/v1/socket?"+query, headers)
	if err != nil {
		t.Fatal(err)
	}
	s := &Socket{Conn: conn, answers: make(chan []byte, 10_000)}
	s.Stream = h.follow(t, func(ctx context.Context, _ *Stream, to io.Writer) error {
		err := readTexts(ctx, s.Conn, func(text []byte) error { return s.write(to, text) })
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end = err
		return ended(err)
	})
	return s
}

// dialSocket opens a WebSocket.
func (h *Hub) dialSocket(path string, headers []string) (*websocket.Conn, error) {
	header := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		header.Add(headers[i], headers[i+1])
	}
	options := &websocket.DialOptions{HTTPClient: h.Client, HTTPHeader: header}
	if offered := header.Get("Sec-WebSocket-Protocol"); offered != "" {
		options.Subprotocols = strings.Split(offered, ", ")
		header.Del("Sec-WebSocket-Protocol")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(h.URL, "http")+path, options)
	if err != nil {
		text := []byte{}
		if res != nil && res.Body != nil {
			text, _ = io.ReadAll(res.Body)
		}
		return nil, fmt.Errorf("socket %s: %w %s", path, err, text)
	}
	conn.SetReadLimit(-1)
	return conn, nil
}

// readTexts reads text messages, until the socket ends or one cannot be taken.
func readTexts(ctx context.Context, conn *websocket.Conn, take func(text []byte) error) error {
	defer conn.CloseNow()
	for {
		kind, text, err := conn.Read(ctx)
		if err == nil && kind != websocket.MessageText {
			err = errors.New("a message is not text")
		}
		if err == nil {
			err = take(text)
		}
		if err != nil {
			return err
		}
	}
}

// ended is nil where a socket has ended with a close frame.
func ended(err error) error {
	if websocket.CloseStatus(err) >= 0 {
		return nil
	}
	return err
}

// write writes down what a message says, which is an object a line.
func (s *Socket) write(to io.Writer, text []byte) error {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		var said struct {
			ID, Event string
			Data      json.RawMessage
		}
		if err := json.Unmarshal(line, &said); err != nil {
			return err
		}
		var b []byte
		switch {
		case said.Event != "":
			b = appendWord(nil, said.ID, said.Event, said.Data)
		case said.ID != "":
			b = sse.AppendID(nil, said.ID)
		default:
			s.answers <- line
			continue
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// End is how the socket ended, once all has been read.
func (s *Socket) End() (code websocket.StatusCode, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var closed websocket.CloseError
	if !errors.As(s.end, &closed) {
		return -1, ""
	}
	return closed.Code, closed.Reason
}

// Send sends a message.
func (s *Socket) Send(t testing.TB, text string) {
	t.Helper()
	s.said.add(text)
	if err := s.Conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// Ask sends a command, and is its answer.
func (s *Socket) Ask(t testing.TB, text string) Answer {
	t.Helper()
	s.Send(t, text)
	return s.Answer(t)
}

// Answer is the next answer that came. Events must be read meanwhile, if many come.
func (s *Socket) Answer(t testing.TB) (a Answer) {
	t.Helper()
	select {
	case text := <-s.answers:
		s.said.check(t, s.Reader.Contract, text)
		if err := json.Unmarshal(text, &a); err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("no answer came")
	}
	return a
}

// unanswered are commands that were sent on a socket, whose answers come in order.
type unanswered struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (u *unanswered) add(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			u.lines = append(u.lines, line)
		}
	}
}

// next is the first of them that was answered. One that was taken has been only if it has a number.
func (u *unanswered) next(taken bool) (line string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for answered := false; !answered && len(u.lines) > 0; {
		line, u.lines = u.lines[0], u.lines[1:]
		answered = !taken || strings.Contains(line, `"n"`)
	}
	return line
}

// check holds the first of them and its answer against the contract; nil: that of all tests.
func (u *unanswered) check(t testing.TB, c *contracttest.Contract, answer []byte) {
	t.Helper()
	line := u.next(bytes.Contains(answer, []byte(`"ok"`)))
	if c == nil {
		var err error
		if c, err = Contract(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Command(line, string(answer)); err != nil {
		t.Errorf("not in asyncapi.yaml: %v", err)
	}
}
