package process

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// With few descriptors streams are refused first, and told to come back; who asks for
// health or publishes is answered on, and the log says what is wanting.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	limited := filepath.Join(t.TempDir(), "limited")
	is.NoErr(os.WriteFile(limited, []byte("#!/bin/sh\nulimit -n 60\nexec "+hubtest.PlainBinary(t)+"\n"), 0o755))
	p := hubtest.StartBinary(t, limited, "REALTIME_PRESENCE_AUDIENCE=none", "REALTIME_RETRY=1s")
	ask := func(method, path, body string) (status int, answer string) { // each on a connection of its own, which it does not close
		t.Helper()
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		client := hubtest.CheckedClient(t, transport)
		client.Timeout = time.Minute
		req, err := http.NewRequest(method, "http://"+p.Addr+path, strings.NewReader(body))
		is.NoErr(err)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		is.NoErr(err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		is.NoErr(err)
		return res.StatusCode, string(text)
	}
	open := func() (first string) {
		conn, err := net.Dial("tcp", p.Addr)
		is.NoErr(err)
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(conn, "GET /v1/stream?tenant=acme&profile=me HTTP/1.1\r\nHost: %s\r\n\r\n", p.Addr)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		is.NoErr(err)
		is.Equal(res.StatusCode, http.StatusOK)
		event, err := hubtest.NewReader(t, res.Body).Next()
		is.NoErr(err)
		return event.Type + " " + event.Data
	}
	streams := 0
	var last string
	for last = open(); strings.HasPrefix(last, "hub.ready"); last = open() {
		streams++
	}
	t.Logf("%d streams of 60 descriptors", streams)
	is.True(strings.HasPrefix(last, "hub.closing") && strings.Contains(last, `"reason":"capacity"`))
	is.True(streams >= 10)
	for range 20 { // more than there are descriptors
		for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/v1/doctor": 503} {
			status, _ := ask("GET", path, "")
			is.Equal(status, want)
		}
		status, answer := ask("POST", "/v1/events", hubtest.EventJSON("acme", "a.b", `{"kind":"tenant"}`, "1"))
		is.Equal(status, http.StatusAccepted)
		is.True(strings.Contains(answer, fmt.Sprintf(`"connections":%d,`, streams)))
		is.True(strings.HasPrefix(open(), "hub.closing"))
	}
	_, metrics := ask("GET", "/metrics", "")
	is.True(strings.Contains(metrics, `realtime_streams_refused_total{reason="capacity"} 21`))
	is.True(strings.Contains(metrics, "process_max_fds 60"))
	is.True(strings.Contains(metrics, `realtime_server_errors_total{kind="accept"} 0`))
	is.True(strings.Contains(p.Logs.String(), "raise the limit on open files"))

	// Who would hold all that is left, and says nothing, has half of it at most: there is
	// a descriptor for who asks for health, and it is the oldest of those that goes.
	for range 60 {
		conn, err := net.Dial("tcp", p.Addr)
		is.NoErr(err)
		defer conn.Close()
	}
	status, metrics := ask("GET", "/metrics", "")
	is.Equal(status, 200)
	is.True(!strings.Contains(metrics, `realtime_unproven_cut_total{bound="all"} 0`))
	is.True(strings.Contains(p.Logs.String(), "unauthenticated connections or requests were refused or cut off"))
}
