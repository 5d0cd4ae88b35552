package recipes

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
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

var signalRTransports = []string{"ServerSentEvents", "LongPolling"}

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
		Rewrite: func(r *httputil.ProxyRequest) {
			to, _ := url.Parse(hubs[int(turn.Add(1))%len(hubs)].URL)
			r.SetURL(to)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	})
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	return proxy.URL
}
