package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"realtimehub/internal/contracttest"
	"realtimehub/internal/sse"
	"realtimehub/web"
)

// consoleFiles are the console's own and npm's, which are no contract.
var consoleFiles = []string{
	"/connections.js", "/console.css", "/console.js", "/dom.js", "/favicon.svg", "/graph.js", "/index.html", "/log.js",
	"/package.json", "/pane.js", "/publish.js", "/roster.js", "/service.js", "/talk.js",
}

// contract is what all tests' traffic is held against.
var contract = sync.OnceValues(loadContract)

func loadContract() (*contracttest.Contract, error) {
	openapi, err := web.Files.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	asyncapi, err := web.Files.ReadFile("asyncapi.yaml")
	if err != nil {
		return nil, err
	}
	c, err := contracttest.Load(openapi, asyncapi)
	if err != nil {
		return nil, err
	}
	c.Fold = foldKinds
	c.Unlisted = map[string]bool{}
	for _, path := range consoleFiles {
		c.Unlisted[path] = true
	}
	return c, nil
}

// foldKinds writes targets' kinds as the document has them: the hub matches them
// without regard to case, and a schema that said so could be read by nobody.
func foldKinds(body any) {
	event, _ := body.(map[string]any)
	if list, ok := event["events"].([]any); ok {
		for _, event := range list {
			foldKinds(event)
		}
	}
	if target, ok := event["target"].(map[string]any); ok {
		if kind, ok := target["kind"].(string); ok {
			target["kind"] = strings.ToLower(kind)
		}
	}
}

// checked fails the test where a handler and the contract do not agree. Benchmarks
// go without.
func checked(t testing.TB, handler http.Handler) http.Handler {
	t.Helper()
	if _, ok := t.(*testing.B); ok {
		return handler
	}
	c, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	return c.Handler(handler, func(err error) { t.Errorf("not in openapi.yaml: %v", err) })
}

// checkedClient is checked's other side, for a hub that is not a handler here: in a
// process of its own, behind TLS; nil is http.DefaultTransport.
func checkedClient(t testing.TB, transport http.RoundTripper) *http.Client {
	t.Helper()
	c, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &http.Client{Transport: c.Transport(transport, func(err error) { t.Errorf("not in openapi.yaml: %v", err) })}
}

// streamReader reads a stream, and fails the test where an event and the contract
// do not agree.
type streamReader struct {
	*sse.Reader
	t        testing.TB
	contract *contracttest.Contract // nil: that of all tests
	id       string                 // the last one that came
}

func newStreamReader(t testing.TB, src io.Reader) *streamReader {
	r := &streamReader{Reader: sse.NewReader(src), t: t}
	r.OnQuiet = func() { r.id = r.LastEventID() } // an id without an event is not the next event's
	return r
}

// Next is the next event.
func (r *streamReader) Next() (sse.Event, error) {
	r.t.Helper()
	event, err := r.Reader.Next()
	if err != nil {
		return event, err
	}
	id := event.ID
	if id == r.id {
		id = ""
	}
	r.id = event.ID
	c := r.contract
	if c == nil {
		if c, err = contract(); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := c.Event(event.Type, id, event.Data); err != nil {
		r.t.Errorf("not in asyncapi.yaml: %v", err)
	}
	return event, nil
}
