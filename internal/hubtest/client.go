package hubtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/contracttest"
	"realtimehub/internal/sse"
)

// MarkerType is the type of the events by which Received finds the end.
const MarkerType = "test.marker"

// Hub is a hub as its clients and services know it: by its address.
type Hub struct {
	URL      string
	Client   *http.Client
	Contract *contracttest.Contract // of its streams; nil: that of all tests
}

// Open opens GET /v1/stream?query and reads hub.ready; headers are names and values. Where
// the hub has it come back, as the broker of a busy machine does not answer in time, it does
// so, for a minute.
func (h *Hub) Open(t testing.TB, query string, headers ...string) *Stream {
	t.Helper()
	for begun := time.Now(); ; {
		s := h.begin(t, query, headers)
		switch {
		case s.Ready.Type == "hub.ready":
			return s
		case !strings.Contains(s.Ready.Data, `"reason":"unavailable"`) || time.Since(begun) > time.Minute:
			t.Fatalf("stream %s began with %+v", query, s.Ready)
		}
		s.Close()
	}
}

// begin opens a stream and reads its first event.
func (h *Hub) begin(t testing.TB, query string, headers []string) *Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stream{cancel: cancel}
	t.Cleanup(s.Close)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/v1/stream?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	setHeaders(req, headers)
	res, err := h.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	s.body, s.Reader = res.Body, NewReader(t, res.Body)
	s.Reader.Contract = h.Contract
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("stream %s: %s %s", query, res.Status, text)
	}
	s.Ready = s.Next(t)
	var ready struct{ ConnectionID, Cursor string }
	if err := json.Unmarshal([]byte(s.Ready.Data), &ready); err != nil {
		t.Fatal(err)
	}
	s.ConnectionID, s.Cursor = ready.ConnectionID, ready.Cursor
	return s
}

func setHeaders(req *http.Request, headers []string) {
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
}

// Do sends a request with JSON, and is the status and the answer, if that is an object.
func (h *Hub) Do(t testing.TB, method, path, body string, headers ...string) (int, map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	setHeaders(req, headers)
	res, err := h.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if len(text) > 0 && strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
	return res.StatusCode, answer
}

// Post is Do with POST.
func (h *Hub) Post(t testing.TB, path, body string, headers ...string) (int, map[string]any) {
	t.Helper()
	return h.Do(t, http.MethodPost, path, body, headers...)
}

// EventJSON is an event as a service publishes it; target and payload are JSON.
func EventJSON(tenant, typ, target, payload string) string {
	return fmt.Sprintf(`{"tenantId":%q,"type":%q,"target":%s,"payload":%s}`, tenant, typ, target, payload)
}

// Publish publishes one event and returns its answer.
func (h *Hub) Publish(t testing.TB, tenant, typ, target, payload string, headers ...string) map[string]any {
	t.Helper()
	return h.Accepted(t, "/v1/events", EventJSON(tenant, typ, target, payload), headers...)
}

// Accepted posts an event or a batch and returns its answer. As a service does, it sends
// what a slow broker has not confirmed again, with the same ids, and what it did not take.
func (h *Hub) Accepted(t testing.TB, path, body string, headers ...string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		status, answer := h.Post(t, path, body, headers...)
		if status == http.StatusAccepted {
			return answer
		}
		if answer["code"] != "Unconfirmed" && answer["code"] != "BrokerUnavailable" || time.Now().After(deadline) {
			t.Fatalf("%s: %d %v", path, status, answer)
		}
		body = WithIDs(t, body, answer)
	}
}

// WithIDs is an event or a batch with the ids that the hub has named in its answer, if any,
// to be sent again.
func WithIDs(t testing.TB, body string, answer map[string]any) string {
	t.Helper()
	ids, _ := answer["ids"].([]any)
	if id := answer["id"]; ids == nil && id != nil {
		ids = []any{id}
	}
	if ids == nil {
		return body
	}
	var batch struct {
		Events []map[string]json.RawMessage `json:"events"`
	}
	var event map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal([]byte(body), &batch), json.Unmarshal([]byte(body), &event)); err != nil {
		t.Fatal(err)
	}
	all, whole := batch.Events, any(batch)
	if all == nil {
		all, whole = []map[string]json.RawMessage{event}, event
	}
	for i, id := range ids {
		all[i]["id"], _ = json.Marshal(id)
	}
	text, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Changes has members changed, again while not all hubs have said that they know: one that
// is slow takes longer than a call waits.
func (h *Hub) Changes(t testing.TB, method, path, body string, headers ...string) {
	t.Helper()
	var status int
	for deadline := time.Now().Add(time.Minute); status != http.StatusNoContent; {
		if status, _ = h.Do(t, method, path, body, headers...); status != http.StatusNoContent && time.Now().After(deadline) {
			t.Fatalf("%s %s: %d", method, path, status)
		}
	}
}

// Received publishes a marker to the tenant and returns, of each stream, all that came
// before it.
func (h *Hub) Received(t testing.TB, tenant string, streams ...*Stream) [][]sse.Event {
	t.Helper()
	h.Publish(t, tenant, MarkerType, `{"kind":"tenant"}`, "0")
	all := make([][]sse.Event, len(streams))
	for i, s := range streams {
		all[i] = s.UntilMarker(t)
	}
	return all
}

// Payloads is Received, each stream's events in a line as Words has them.
func (h *Hub) Payloads(t testing.TB, tenant string, streams ...*Stream) []string {
	t.Helper()
	all := []string{}
	for _, events := range h.Received(t, tenant, streams...) {
		all = append(all, Words(t, events))
	}
	return all
}

// Words are the events' payloads, and of the hub's own bare ones the types, in a line.
func Words(t testing.TB, events []sse.Event) string {
	t.Helper()
	var words []string
	for _, event := range events {
		if strings.HasPrefix(event.Type, "hub.") {
			words = append(words, event.Type)
			continue
		}
		words = append(words, string(OpenEnvelope(t, event).Payload))
	}
	return strings.Join(words, " ")
}

// Envelope is an event as a client reads it.
type Envelope struct {
	ID, TenantID, Type, Timestamp string
	Payload                       json.RawMessage
	Target                        map[string]any
	Ephemeral                     bool
}

// OpenEnvelope reads an event's data.
func OpenEnvelope(t testing.TB, event sse.Event) Envelope {
	t.Helper()
	var e Envelope
	if err := json.Unmarshal([]byte(event.Data), &e); err != nil {
		t.Fatalf("%v in %+v", err, event)
	}
	return e
}

// Stream is one open stream, read as it is asked for.
type Stream struct {
	ConnectionID, Cursor string
	Ready                sse.Event
	Reader               *Reader

	body   io.Closer
	cancel context.CancelFunc
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
