package main

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/doctor"
)

// startHTTP2 serves a hub over HTTP/2, so many streams a connection, 0 for Go's own
// limit, and changed by wrap.
func startHTTP2(t *testing.T, h *testHub, streams int, wrap func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(wrap(h.Handler))
	server.EnableHTTP2 = true
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: streams}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// examine examines a server that holds nothing back.
func examine(t *testing.T, server *httptest.Server, watch time.Duration) (report *doctor.Report) {
	t.Helper()
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	threeTimes(func() bool {
		var err error
		report, err = doctor.Run(t.Context(), doctor.Config{URL: server.URL, For: watch, TLS: &tls.Config{RootCAs: roots}})
		if err != nil {
			t.Fatal(err)
		}
		return !slices.Contains(codes(report), "buffered")
	})
	return report
}

// A hub that resets its own silent streams is not taken for a proxy with a limit.
func TestDoctorBlamesNoProxyForTheHub(t *testing.T) {
	alone(t, "a probe is of one hub")
	t.Parallel()
	is := is.New(t)
	server := startHTTP2(t, newTestHub(t), 0, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("every") == "0s" {
				reset := time.AfterFunc(2*time.Second, func() { http.NewResponseController(w).SetWriteDeadline(time.Now()) })
				defer reset.Stop()
			}
			next.ServeHTTP(w, r)
		})
	})
	report := examine(t, server, 12*time.Second) // long after that, on a busy machine, too
	is.Equal(codes(report), []string{"idle-cut"})
	is.True(strings.Contains(report.Findings[0].Says, "so it may be the hub"))
	is.Equal(report.Findings[0].Advice[0].Proxy, "the hub") // whom to look at first
}

// How many streams a connection has room for is what the other side says; and who
// leaves an HTTP/2 stream is noticed.
func TestDoctorCountsStreams(t *testing.T) {
	alone(t, "a probe is of one hub")
	for name, tc := range map[string]struct {
		streams int
		says    string
	}{
		"eight":    {8, "takes 8 requests at once here, and a browser opens one connection to a host. Each tab with a stream of its own holds one: in tab 9"},
		"Go's own": {0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			server := startHTTP2(t, newTestHub(t), tc.streams, func(next http.Handler) http.Handler { return next })
			report := examine(t, server, time.Second)
			is.Equal(codes(report), nil)
			is.Equal(strings.Contains(report.String(), "(h2-streams)"), tc.streams > 0)
			is.True(strings.Contains(report.String(), tc.says))
			is.True(strings.Contains(report.String(), "(leave-noticed)"))
		})
	}
}
