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
	"testing"
	"time"

	"github.com/coder/websocket"

	"realtimehub/internal/sse"
)

// What a client of SignalR says first, and how records end (HubProtocol.md, "JSON Encoding").
const (
	handshake = `{"protocol":"json","version":1}` + "\x1e"
	recordEnd = "\x1e"
)

// session is one of a SignalR client, by whichever transport.
type session struct {
	hub     *Hub
	path    string // with the query, and the connectionToken in it
	headers []string
	to      io.Writer
	shaken  bool // the handshake was answered
}

// errClosed is the end that a record has told.
var errClosed = errors.New("a close message")

// signalR is the door for a transport of SignalR, which is over once its client has an error.
func signalR(transport func(ctx context.Context, s *session) error) func(h *Hub, t testing.TB, query string, headers []string) *Stream {
	return func(h *Hub, t testing.TB, query string, headers []string) *Stream {
		t.Helper()
		values, headers := tokenInHeader(t, query, headers)
		status, answer := h.Do(t, http.MethodPost, "/signalr/negotiate?negotiateVersion=1&"+values.Encode(), "", headers...)
		token, ok := answer["connectionToken"].(string)
		if !ok {
			t.Fatalf("negotiating %s: %d %v", query, status, answer)
		}
		values.Set("id", token)
		s := &session{hub: h, path: "/signalr?" + values.Encode(), headers: headers}
		return h.follow(t, func(ctx context.Context, _ *Stream, to io.Writer) error {
			s.to = to
			if err := transport(ctx, s); !errors.Is(err, errClosed) {
				return err
			}
			return nil
		})
	}
}

func overWebSocket(ctx context.Context, s *session) error {
	conn, err := s.hub.dialSocket(s.path, s.headers)
	if err != nil {
		return err
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte(handshake)); err != nil {
		return err
	}
	return ended(readTexts(ctx, conn, s.write))
}

func overEvents(ctx context.Context, s *session) error {
	res, err := s.hub.get(ctx, s.path, append([]string{"Accept", "text/event-stream"}, s.headers...))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return unexpected(res)
	}
	if err := s.post(ctx, handshake); err != nil {
		return err
	}
	for events := sse.NewReader(res.Body); ; {
		event, err := events.Next()
		if err == nil {
			err = s.write([]byte(event.Data))
		}
		if err != nil {
			return err
		}
	}
}

func overPolls(ctx context.Context, s *session) error {
	if _, err := s.poll(ctx); err != nil { // the first opens the session
		return err
	}
	defer s.leave()
	if err := s.post(ctx, handshake); err != nil {
		return err
	}
	for {
		records, err := s.poll(ctx)
		if err == nil {
			err = s.write(records)
		}
		if err != nil {
			return err
		}
	}
}

// poll is what one poll is answered; io.EOF after the last.
func (s *session) poll(ctx context.Context) (records []byte, err error) {
	res, err := s.hub.get(ctx, s.path, s.headers)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return io.ReadAll(res.Body)
	case http.StatusNoContent:
		return nil, io.EOF
	}
	return nil, unexpected(res)
}

func unexpected(res *http.Response) error {
	text, _ := io.ReadAll(res.Body)
	return fmt.Errorf("signalr: %s %s", res.Status, text)
}

// post says something.
func (s *session) post(ctx context.Context, records string) error {
	return s.call(ctx, http.MethodPost, records)
}

// leave ends a session whose client polls.
func (s *session) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.call(ctx, http.MethodDelete, "") // it may have ended before
}

func (s *session) call(ctx context.Context, method, records string) error {
	req, err := http.NewRequestWithContext(ctx, method, s.hub.URL+s.path, strings.NewReader(records))
	if err != nil {
		return err
	}
	setHeaders(req, s.headers)
	if records != "" {
		req.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	res, err := s.hub.Client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return unexpected(res)
	}
	return nil
}

// write writes down records.
func (s *session) write(records []byte) error {
	for len(records) > 0 {
		record, rest, ok := bytes.Cut(records, []byte(recordEnd))
		if !ok {
			return fmt.Errorf("a record is torn: %q", record)
		}
		if err := s.record(record); err != nil {
			return err
		}
		records = rest
	}
	return nil
}

func (s *session) record(record []byte) error {
	var said struct {
		Type      int
		Target    string
		Arguments []json.RawMessage // an envelope and a cursor
		Error     string
	}
	if err := json.Unmarshal(record, &said); err != nil {
		return err
	}
	switch {
	case !s.shaken && said.Error == "":
		s.shaken = true
		return nil
	case said.Type == 1 && len(said.Arguments) == 2:
		var cursor string // of null: none
		if err := json.Unmarshal(said.Arguments[1], &cursor); err != nil {
			return err
		}
		_, err := s.to.Write(appendWord(nil, cursor, said.Target, said.Arguments[0]))
		return err
	case said.Type == 3, said.Type == 6:
		return nil
	case said.Type == 7:
		return errClosed
	}
	return fmt.Errorf("signalr: %s", record)
}
