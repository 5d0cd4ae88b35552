package hubtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"realtimehub/internal/sse"
)

// Socket is a WebSocket whose events are read as those of any stream: they are written down as
// Server-Sent Events first, so that what holds of one door is held of the other, too.
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

// OpenSocket opens GET /v1/socket?query and reads hub.ready; headers are names and values.
func (h *Hub) OpenSocket(t testing.TB, query string, headers ...string) *Socket {
	t.Helper()
	s := h.DialSocket(t, query, headers...)
	s.begin(t, query)
	return s
}

// DialSocket is OpenSocket that reads nothing.
func (h *Hub) DialSocket(t testing.TB, query string, headers ...string) *Socket {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	header := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		header.Add(headers[i], headers[i+1])
	}
	options := &websocket.DialOptions{HTTPClient: h.Client, HTTPHeader: header}
	if offered := header.Get("Sec-WebSocket-Protocol"); offered != "" {
		options.Subprotocols = strings.Split(offered, ", ")
		header.Del("Sec-WebSocket-Protocol")
	}
	conn, res, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(h.URL, "http")+"/v1/socket?"+query, options)
	if err != nil {
		text := []byte{}
		if res != nil && res.Body != nil {
			text, _ = io.ReadAll(res.Body)
		}
		cancel()
		t.Fatalf("socket %s: %v %s", query, err, text)
	}
	conn.SetReadLimit(-1)
	out, in := io.Pipe()
	s := &Socket{Stream: &Stream{cancel: cancel, body: out, Reader: NewReader(t, out)}, Conn: conn, answers: make(chan []byte, 10_000)}
	s.Reader.Contract = h.Contract
	t.Cleanup(s.Close)
	go func() {
		defer cancel()
		err := s.copy(ctx, in)
		s.mu.Lock()
		s.end = err
		s.mu.Unlock()
		if websocket.CloseStatus(err) >= 0 {
			err = io.EOF
		}
		in.CloseWithError(err)
		conn.CloseNow()
	}()
	return s
}

// copy writes down what comes.
func (s *Socket) copy(ctx context.Context, to io.Writer) error {
	for {
		kind, text, err := s.Conn.Read(ctx)
		if err != nil {
			return err
		}
		if kind != websocket.MessageText {
			return errors.New("a message is not text")
		}
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			var said struct {
				ID, Event string
				Data      json.RawMessage
				N         json.RawMessage
			}
			if err := json.Unmarshal(line, &said); err != nil {
				return err
			}
			var b []byte
			switch {
			case said.Event != "":
				var data struct{ RetryMS int64 }
				if json.Unmarshal(said.Data, &data); data.RetryMS > 0 && strings.HasPrefix(said.Event, "hub.") {
					b = sse.AppendRetry(b, time.Duration(data.RetryMS)*time.Millisecond)
				}
				b, _ = sse.AppendEvent(b, said.ID, said.Event, said.Data)
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
	}
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
