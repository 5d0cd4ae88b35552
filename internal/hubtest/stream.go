package hubtest

import (
	"context"
	"encoding/json"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"realtimehub/internal/sse"
)

// Stream is one open stream, read as it is asked for.
type Stream struct {
	ConnectionID, Cursor string
	Ready                sse.Event
	Reader               *Reader

	body   io.Closer
	cancel context.CancelFunc
	asked  atomic.Int64 // in Unix nanoseconds, when one that polls has asked; answering; 0: it does not poll
}

const answering = -1

// Asked is when a client that polls has asked for what comes. It is busy with an answer before it
// asks again. One that does not poll, or does not now since much is unread, has never asked.
func (s *Stream) Asked() (at time.Time, busy bool) {
	switch asked := s.asked.Load(); asked {
	case 0:
		return time.Time{}, false
	case answering:
		return time.Time{}, !s.body.(*inbox).full()
	default:
		return time.Unix(0, asked), false
	}
}

// begin reads the first event.
func (s *Stream) begin(t testing.TB) {
	t.Helper()
	s.Ready = s.Next(t)
	var ready struct{ ConnectionID, Cursor string }
	if err := json.Unmarshal([]byte(s.Ready.Data), &ready); err != nil {
		t.Fatal(err)
	}
	s.ConnectionID, s.Cursor = ready.ConnectionID, ready.Cursor
}

// Read is the next event, or how the stream ended; it gives up after a minute.
func (s *Stream) Read() (sse.Event, error) {
	timer := time.AfterFunc(time.Minute, s.cancel)
	defer timer.Stop()
	return s.Reader.Next()
}

// Next is the next event, whatever it is.
func (s *Stream) Next(t testing.TB) sse.Event {
	t.Helper()
	event, err := s.Read()
	if err != nil {
		t.Fatalf("no next event: %v", err)
	}
	return event
}

// Until is the next event of a type; others are skipped.
func (s *Stream) Until(t testing.TB, typ string) sse.Event {
	t.Helper()
	for {
		if event := s.Next(t); event.Type == typ {
			return event
		}
	}
}

// UntilMarker is all that comes before the next event of MarkerType, also where the stream
// names no types.
func (s *Stream) UntilMarker(t testing.TB) (events []sse.Event) {
	t.Helper()
	for {
		event := s.Next(t)
		if event.Type == MarkerType || event.Type == "message" && OpenEnvelope(t, event).Type == MarkerType {
			return events
		}
		events = append(events, event)
	}
}

// Close leaves, as a browser does that closes the page.
func (s *Stream) Close() {
	s.cancel()
	if s.body != nil {
		s.body.Close()
	}
}
