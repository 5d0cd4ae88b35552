package hubtest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"realtimehub/internal/contracttest"
	"realtimehub/internal/sse"
)

// ConsoleFiles are the console's own and npm's, which are no contract.
var ConsoleFiles = []string{
	"/connections.js", "/console.css", "/console.js", "/dom.js", "/favicon.svg", "/graph.js", "/index.html", "/log.js",
	"/package.json", "/pane.css", "/pane.js", "/publish.js", "/published.js", "/receipts.css", "/receipts.js", "/roster.js", "/service.js", "/talk.js", "/why.js",
}

// Contract is what all tests' traffic is held against.
var Contract = sync.OnceValues(LoadContract)

// LoadContract is the contract by itself, for a test that counts what it has seen.
func LoadContract() (*contracttest.Contract, error) {
	openapi, err := os.ReadFile(Path("web/openapi.yaml"))
	if err != nil {
		return nil, err
	}
	asyncapi, err := os.ReadFile(Path("web/asyncapi.yaml"))
	if err != nil {
		return nil, err
	}
	c, err := contracttest.Load(openapi, asyncapi)
	if err != nil {
		return nil, err
	}
	c.Fold = foldKinds
	c.Unlisted = map[string]bool{}
	for _, path := range ConsoleFiles {
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

// Checked fails the test where a handler and the contract do not agree. Benchmarks
// go without.
func Checked(t testing.TB, handler http.Handler) http.Handler {
	t.Helper()
	if _, ok := t.(*testing.B); ok {
		return handler
	}
	c, err := Contract()
	if err != nil {
		t.Fatal(err)
	}
	return c.Handler(handler, func(err error) { t.Errorf("not in openapi.yaml: %v", err) })
}

// CheckedClient is Checked's other side, for a hub in a process of its own or behind TLS;
// a nil transport is http.DefaultTransport.
func CheckedClient(t testing.TB, transport http.RoundTripper) *http.Client {
	t.Helper()
	c, err := Contract()
	if err != nil {
		t.Fatal(err)
	}
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &http.Client{Transport: c.Transport(transport, func(err error) { t.Errorf("not in openapi.yaml: %v", err) })}
}

// CheckedFront is a server before a hub that passes on what it is asked, and is Checked:
// for what browsers and proxies ask. Its CloseClientConnections is as a network that ends.
func CheckedFront(t testing.TB, hub string) *httptest.Server {
	t.Helper()
	to, err := url.Parse(hub)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	passes := Checked(t, &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // at once
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0), // of streams that are cut
	})
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex() // NDJSON goes both ways at once
		passes.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.Start()
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(front.Close)
	return front
}

// Reader reads a stream, and fails the test where an event and the contract do not
// agree.
type Reader struct {
	*sse.Reader
	Contract *contracttest.Contract // nil: that of all tests

	t  testing.TB
	id string // the last one that came
}

// NewReader reads the body of a stream.
func NewReader(t testing.TB, src io.Reader) *Reader {
	r := &Reader{Reader: sse.NewReader(src), t: t}
	r.OnQuiet = func() { r.id = r.LastEventID() } // an id without an event is not the next event's
	return r
}

// Next is the next event.
func (r *Reader) Next() (sse.Event, error) {
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
	c := r.Contract
	if c == nil {
		if c, err = Contract(); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := c.Event(event.Type, id, event.Data); err != nil {
		r.t.Errorf("not in asyncapi.yaml: %v", err)
	}
	return event, nil
}
