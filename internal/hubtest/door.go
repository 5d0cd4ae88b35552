package hubtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"realtimehub/internal/sse"
)

// Door is a way by which a client comes to its stream. Whatever it is, the stream is read as
// Server-Sent Events, which those of another door are written down as: so one test is of all of them.
type Door struct {
	Name      string // as flags have it
	Transport string // as lists of connections and metrics have it

	open func(h *Hub, t testing.TB, query string, headers []string) *Stream
}

// SSE is the door that streams come by unless a Hub says otherwise.
var SSE = &Door{"sse", "sse", openEvents}

// Doors are all that there are.
var Doors = []*Door{
	SSE,
	{"websocket", "websocket", openWebSocket},
	{"poll", "poll", openPolls},
	{"signalr-websocket", "signalr", signalR(overWebSocket)},
	{"signalr-sse", "signalr", signalR(overEvents)},
	{"signalr-poll", "signalr", signalR(overPolls)},
}

// DoorOf is the door of a name, nil if there is none.
func DoorOf(name string) *Door {
	i := slices.IndexFunc(Doors, func(d *Door) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return Doors[i]
}

// Open opens a stream with the parameters of GET /v1/stream, and reads hub.ready; headers are names
// and values. Where the hub has it come back, as the broker of a busy machine does not answer in
// time, it does so, for a minute.
func (h *Hub) Open(t testing.TB, query string, headers ...string) *Stream {
	t.Helper()
	door := h.Door
	if door == nil {
		door = SSE
	}
	for begun := time.Now(); ; {
		s := door.open(h, t, query, headers)
		s.begin(t)
		switch {
		case s.Ready.Type == "hub.ready":
			return s
		case !strings.Contains(s.Ready.Data, `"reason":"unavailable"`) || time.Since(begun) > time.Minute:
			t.Fatalf("stream %s began with %+v", query, s.Ready)
		}
		s.Close()
	}
}

// openEvents opens GET /v1/stream.
func openEvents(h *Hub, t testing.TB, query string, headers []string) *Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	res, err := h.get(ctx, "/v1/stream?"+query, headers)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s := h.newStream(t, res.Body, cancel)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("stream %s: %s %s", query, res.Status, text)
	}
	return s
}

// get asks for what may not end before ctx does.
func (h *Hub) get(ctx context.Context, path string, headers []string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+path, nil)
	if err != nil {
		return nil, err
	}
	setHeaders(req, headers)
	return h.Client.Do(req)
}

// tokenInHeader has a token of the query in the header, which all requests of these doors take; as
// their clients do.
func tokenInHeader(t testing.TB, query string, headers []string) (url.Values, []string) {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	if token := values.Get("access_token"); token != "" {
		values.Del("access_token")
		headers = append([]string{"Authorization", "Bearer " + token}, headers...)
	}
	return values, headers
}

// newStream reads what comes, until the test ends.
func (h *Hub) newStream(t testing.TB, from io.ReadCloser, cancel context.CancelFunc) *Stream {
	s := &Stream{cancel: cancel, body: from, Reader: NewReader(t, from)}
	s.Reader.Contract = h.Contract
	t.Cleanup(s.Close)
	return s
}

// follow has a client of another door than SSE write down what comes, until ctx or the stream ends;
// nil is an end that the hub has told.
func (h *Hub) follow(t testing.TB, client func(ctx context.Context, s *Stream, to io.Writer) error) *Stream {
	ctx, cancel := context.WithCancel(context.Background())
	in := newInbox()
	s := h.newStream(t, in, cancel)
	var following sync.WaitGroup
	following.Go(func() {
		defer cancel()
		in.end(client(ctx, s, in))
	})
	t.Cleanup(func() {
		s.Close()
		following.Wait()
	})
	return s
}

// appendWord writes down an event, or what the hub itself says. Where that tells when to come back
// it is told as a stream of Server-Sent Events has it, too.
func appendWord(b []byte, cursor, typ string, data []byte) []byte {
	var own struct{ RetryMS int64 }
	if strings.HasPrefix(typ, "hub.") && json.Unmarshal(data, &own) == nil && own.RetryMS > 0 {
		b = sse.AppendRetry(b, time.Duration(own.RetryMS)*time.Millisecond)
	}
	b, _ = sse.AppendEvent(b, cursor, typ, data)
	return b
}

// inboxBytes is how much a client has come in that is not read. As one does whose page is busy, it
// answers pings meanwhile; when it has more it is slow.
const inboxBytes = 64 << 10

// inbox is what has come and is to be read.
type inbox struct {
	mu    sync.Mutex
	moved sync.Cond // of mu
	// Guarded by mu.
	text bytes.Buffer
	err  error // how it has ended
}

func newInbox() *inbox {
	b := &inbox{}
	b.moved.L = &b.mu
	return b
}

func (b *inbox) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fullLocked()
}

func (b *inbox) fullLocked() bool { return b.text.Len() > inboxBytes }

// Write waits until there is room.
func (b *inbox) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.fullLocked() && b.err == nil {
		b.moved.Wait()
	}
	if b.err != nil {
		return 0, b.err
	}
	b.moved.Broadcast()
	return b.text.Write(p)
}

func (b *inbox) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.text.Len() == 0 && b.err == nil {
		b.moved.Wait()
	}
	if b.text.Len() == 0 {
		return 0, b.err
	}
	b.moved.Broadcast()
	return b.text.Read(p)
}

// end says that nothing follows, because of an error if it is not nil.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = io.EOF
		if err != nil {
			b.err = err
		}
	}
	b.moved.Broadcast()
}

// Close is of the reader, who wants no more.
func (b *inbox) Close() error {
	b.end(io.ErrClosedPipe)
	return nil
}
