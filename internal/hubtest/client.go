package hubtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/contracttest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// MarkerType is the type of the events by which Received finds the end.
const MarkerType = "test.marker"

// Hub is a hub as its clients and services know it: by its address.
type Hub struct {
	URL      string
	Client   *http.Client
	Door     *Door                  // by which its streams are opened; nil: SSE
	Contract *contracttest.Contract // of its streams; nil: that of all tests
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

// Answered is Do, again while what the hub asks for the answer is slow to give it: for a minute
// at most, until the answer is neither Unconfirmed, BrokerUnavailable nor HubUnavailable.
func (h *Hub) Answered(t testing.TB, method, path, body string, headers ...string) (status int, answer map[string]any) {
	t.Helper()
	testkit.Comes(func() bool {
		status, answer = h.Do(t, method, path, body, headers...)
		return answer["code"] != "Unconfirmed" && answer["code"] != "BrokerUnavailable" && answer["code"] != "HubUnavailable"
	})
	return status, answer
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
// what a slow broker has not confirmed again, with the same ids, and what it or a slow service of
// memberships did not take.
func (h *Hub) Accepted(t testing.TB, path, body string, headers ...string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		status, answer := h.Post(t, path, body, headers...)
		if status == http.StatusAccepted {
			return answer
		}
		code, _ := answer["code"].(string)
		again := slices.Contains([]string{"Unconfirmed", "BrokerUnavailable", "MembershipUnavailable"}, code)
		if !again || time.Now().After(deadline) {
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
	for deadline := time.Now().Add(time.Minute); ; {
		status, answer := h.Do(t, method, path, body, headers...)
		if status == http.StatusNoContent {
			return
		}
		if status != http.StatusServiceUnavailable || time.Now().After(deadline) {
			t.Fatalf("%s %s: %d %v", method, path, status, answer)
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
