package recipes

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// signalRPrograms is a folder with the programs of testdata/signalr and the stock client of npm.
func signalRPrograms(t *testing.T) (dir string) {
	t.Helper()
	needs(t, "node")
	needs(t, "npm")
	is := is.New(t)
	dir = t.TempDir()
	installed(t, dir, "@microsoft/signalr@10.0.11")
	programs, err := filepath.Glob("testdata/signalr/*.mjs")
	is.NoErr(err)
	for _, name := range programs {
		program, err := os.ReadFile(name)
		is.NoErr(err)
		is.NoErr(os.WriteFile(filepath.Join(dir, filepath.Base(name)), program, 0o644))
	}
	return dir
}

// The page of the docs, cut off between a partial hub.ready and its hub.gap, comes back from the place
// that it knew, so that it is told of the gap then.
func TestSignalRPageThatIsCutBeforeAGap(t *testing.T) {
	t.Parallel()
	needs(t, "node")
	is := is.New(t)
	program := ""
	for _, block := range blocksOf(t, "docs/signalr.md") {
		if block.Language == "js" {
			program = block.Text
		}
	}
	const client = `
		import assert from 'node:assert/strict';
		const on = {}, missed = [];
		const it = {
			state: 'Reconnecting', withUrl: () => it, withAutomaticReconnect: () => it, build: () => it, start: async () => {}, invoke: async () => {},
			on: (type, hears) => { on[type] = hears; }, onreconnecting: (ends) => { it.ends = ends; },
		};
		const signalR = { HubConnectionBuilder: function () { return it; } };
		const token = () => '', show = () => {}, refetch = (reason) => missed.push(reason);
		const returns = async () => {
			it.ends();
			await new Promise((go) => setTimeout(go)); // behind what it does then
			return new URL(it.baseUrl).searchParams.get('cursor');
		};`
	const cut = `
		on['hub.ready']({ resume: 'fresh', cursor: 'c0' }, 'c0');
		assert.equal(await returns(), 'c0');
		on['order.paid']({ payload: 1 }, 'c1');
		on['hub.ready']({ resume: 'partial', cursor: 'c8' }, null);
		assert.equal(await returns(), 'c1');
		on['hub.ready']({ resume: 'partial', cursor: 'c8' }, null);
		on['hub.gap']({ reason: 'expired', cursor: 'c8' }, 'c8');
		assert.deepEqual(missed, ['expired']);
		assert.equal(await returns(), 'c8');`
	dir := t.TempDir()
	page := strings.Replace(program, "import * as signalR from '@microsoft/signalr';", client, 1) + cut
	is.NoErr(os.WriteFile(filepath.Join(dir, "page.mjs"), []byte(page), 0o644))
	node(t, dir, "node", "page.mjs")
}

var signalRTransports = []string{"WebSockets", "ServerSentEvents", "LongPolling"}

// The stock client of SignalR hears, asks, comes back and leaves.
func TestSignalR(t *testing.T) {
	t.Parallel()
	dir := signalRPrograms(t)
	for _, transport := range signalRTransports {
		t.Run(transport, func(t *testing.T) {
			hub := hubtest.Start(t, "REALTIME_CLIENT_RATE=0")
			node(t, dir, "node", "verbs.mjs", hub.URL, transport)
		})
	}
}

// It does so where each of its requests goes to another hub: nothing sticks to a session.
func TestSignalRRoundRobin(t *testing.T) {
	t.Parallel()
	dir := signalRPrograms(t)
	for _, transport := range signalRTransports {
		t.Run(transport, func(t *testing.T) {
			hubs := hubtest.StartCluster(t, 3, natstest.Start(t, 1), "REALTIME_CLIENT_RATE=0", "REALTIME_PRESENCE_AUDIENCE=tenant")
			node(t, dir, "node", "verbs.mjs", roundRobin(t, hubs), transport)
		})
	}
}

// roundRobin is the address of a proxy that sends each request to the next hub.
func roundRobin(t testing.TB, hubs []*hubtest.Program) string {
	t.Helper()
	var turn atomic.Int64
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Transport:     next(func() string { return hubs[int(turn.Add(1))%len(hubs)].Addr }),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "a-hub"}) // which one, says next
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	})
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	return proxy.URL
}

// next sends each request to the address that it says, and on to the one after where nobody is
// there.
type next func() (addr string)

func (n next) RoundTrip(r *http.Request) (res *http.Response, err error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	for range 3 {
		r.URL.Host, r.Body = n(), io.NopCloser(bytes.NewReader(body))
		if res, err = http.DefaultTransport.RoundTrip(r); !errors.Is(err, syscall.ECONNREFUSED) {
			return res, err
		}
	}
	return nil, err
}

// lost is the program lost.mjs: a page that comes back from each end with the cursor that it knows.
type lost struct {
	command *exec.Cmd
	printed testkit.Buffer
}

func startLost(t *testing.T, dir string, arguments ...string) *lost {
	t.Helper()
	l := &lost{command: exec.CommandContext(t.Context(), "node", append([]string{"lost.mjs"}, arguments...)...)}
	l.command.Dir = dir
	l.command.Stdout, l.command.Stderr = &l.printed, &l.printed
	is.New(t).NoErr(l.command.Start())
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.printed.String())
		}
	})
	return l
}

// connects is how often it was connected.
func (l *lost) connects() int { return strings.Count(l.printed.String(), "connected\n") }

// heard waits for its end, and holds what it heard against what was said.
func (l *lost) heard(t *testing.T, said []string) {
	t.Helper()
	is.New(t).NoErr(l.command.Wait())
	if !strings.HasSuffix(l.printed.String(), "heard "+strings.Join(said, " ")+"\n") {
		t.Errorf("of %d events it did not hear each once", len(said))
	}
}

// A client that asks for stateful reconnect is not given it, and comes back as any other does:
// its socket is cut time and again while events are published, and it hears each of them once.
func TestSignalRSocketsThatAreCut(t *testing.T) {
	t.Parallel()
	dir := signalRPrograms(t)
	hub := hubtest.Start(t)
	wire := hubtest.NewWire(t, hub.URL)
	client := startLost(t, dir, wire.URL, "WebSockets", "stateful")
	var said []string
	say := func(times int) {
		for range times {
			said = append(said, strconv.Itoa(len(said)+1))
			hub.Publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, said[len(said)-1])
		}
	}
	for cuts := range 10 {
		eventually(t, func() bool { return client.connects() > cuts })
		say(10)
		wire.Cut()
		say(10)
	}
	hub.Publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, `"over"`)
	client.heard(t, said)
}

// Whoever brings along the cursor that it knows misses nothing and hears nothing twice, though the
// hub that holds its session is killed, and the next one is drained.
func TestSignalRHubsThatEnd(t *testing.T) {
	t.Parallel()
	dir := signalRPrograms(t)
	for _, transport := range signalRTransports {
		t.Run(transport, func(t *testing.T) {
			hubs := hubtest.StartCluster(t, 3, natstest.Start(t, 1))
			client := startLost(t, dir, roundRobin(t, hubs), transport)
			alive := slices.Clone(hubs)
			var said []string
			say := func(payload string) {
				alive[0].Publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, payload)
			}
			for ends, end := range []func(*hubtest.Program){(*hubtest.Program).Kill, func(h *hubtest.Program) { h.Stop() }, nil} {
				holder := -1
				eventually(t, func() bool {
					if client.connects() <= ends { // a start that is cut off is never tried again by itself
						return false
					}
					holder = slices.IndexFunc(alive, func(h *hubtest.Program) bool { return h.Metric(t, "realtime_streams_open") >= 1 })
					return holder >= 0
				})
				for range 20 {
					said = append(said, strconv.Itoa(len(said)+1))
					say(said[len(said)-1])
				}
				if end != nil {
					end(alive[holder])
					alive = slices.Delete(alive, holder, holder+1)
				}
			}
			say(`"over"`)
			client.heard(t, said)
		})
	}
}
