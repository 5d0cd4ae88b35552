package serve

import (
	"encoding/json"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// logged are the lines of a log in JSON.
func logged(t *testing.T, logs *testkit.Buffer) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(logs.String()) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// What net/http says is loud where it is our matter, once a second and with how often it
// was; what any client can cause is not.
func TestComplaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs testkit.Buffer
		c := NewErrorLog(slog.New(slog.NewJSONHandler(&logs, nil)))
		errorLog := log.New(c, "", 0)
		const accept = "http: Accept error: accept tcp 127.0.0.1:8080: accept4: too many open files; retrying in 5ms"
		for range 100 {
			errorLog.Print(accept)
			errorLog.Print("http: TLS handshake error from 192.0.2.1:1234: EOF")
			errorLog.Print("http2: server connection error from 192.0.2.1:1234: connection error: PROTOCOL_ERROR")
		}
		errorLog.Print("http: panic serving 192.0.2.1:1234: oops\ngoroutine 1 [running]:\nmain.main()")
		errorLog.Print("http: superfluous response.WriteHeader call from main.main (main.go:1)")
		time.Sleep(time.Second)
		errorLog.Print(accept)
		var got []string
		for _, line := range logged(t, &logs) {
			is.Equal(line["level"], "ERROR")
			got = append(got, line["kind"].(string))
		}
		is.Equal(got, []string{"accept", "panic", "other", "accept"})
		lines := logged(t, &logs)
		is.Equal(lines[3]["times"], 100.0) // with those that were not told
		is.Equal(lines[1]["err"], "http: panic serving 192.0.2.1:1234: oops")
		is.True(strings.Contains(lines[1]["stack"].(string), "main.main()"))
		is.Equal(c.Counts(), map[Complaint]int64{"accept": 101, "tls": 100, "client": 100, "panic": 1, "other": 1})
	})
}

// A handler that panics is told of, as net/http really does.
func TestAPanicIsLoud(t *testing.T) {
	is := is.New(t)
	var logs testkit.Buffer
	c := NewErrorLog(slog.New(slog.NewJSONHandler(&logs, nil)))
	for _, http2 := range []bool{false, true} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oops") }))
		server.Config = NewServer(server.Config.Handler, nil, log.New(c, "", 0))
		server.EnableHTTP2 = http2
		if http2 {
			server.StartTLS()
		} else {
			server.Start()
		}
		_, err := server.Client().Get(server.URL)
		is.True(err != nil)
		server.Close()
	}
	testkit.Eventually(t, func() bool { return c.Counts()[complaintPanic] == 2 }) // over HTTP/2 after its client was told
	is.Equal(logged(t, &logs)[0]["kind"], "panic")
}
