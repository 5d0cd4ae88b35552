package recipes

import (
	"bufio"
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

// The proxies themselves, as the docs have them set up, tell their clients apart.
func TestDeployClients(t *testing.T) {
	t.Parallel()
	haproxy := func(mode, server string) func(*testing.T, string) *front {
		return func(t *testing.T, hub string) *front {
			needs(t, "haproxy")
			dir, port := t.TempDir(), freePort(t)
			config := "defaults\n  mode " + mode + "\n  timeout connect 2s\n  timeout client 45s\n  timeout server 45s\n" +
				"frontend streams\n  bind 127.0.0.1:" + port + "\n  default_backend hubs\n" +
				"backend hubs\n  server hub1 " + strings.TrimPrefix(hub, "http://") + " " + server + "\n"
			if err := os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			return startFront(t, dir, port, "haproxy", "-f", "haproxy.cfg")
		}
	}
	for name, start := range map[string]func(t *testing.T, hub string) *front{
		"nginx":                    func(t *testing.T, hub string) *front { return configuredNginx(t, deployNginx(t), hub) },
		"HAProxy, forwardfor":      haproxy("http\n  option forwardfor", ""),
		"HAProxy, PROXY version 1": haproxy("tcp", "send-proxy"),
		"HAProxy, PROXY version 2": haproxy("tcp", "send-proxy-v2"),
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at := strings.TrimPrefix(start(t, hubtest.Start(t, "REALTIME_TRUSTED_PROXIES=127.0.0.1").URL).url, "http://")
			probe := func(from string) int {
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				conn, err := dialer.Dial("tcp", at)
				is.NoErr(err)
				t.Cleanup(func() { conn.Close() })
				conn.SetDeadline(time.Now().Add(time.Minute))
				io.WriteString(conn, hubtest.Request("/v1/doctor?every=50ms&for=1m", "X-Forwarded-For", "203.0.113.7")) // which is not so
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				is.NoErr(err)
				kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
				if kind != "text/event-stream" {
					return res.StatusCode
				}
				event, err := hubtest.NewReader(t, res.Body).Next()
				if err != nil || event.Type != "doctor.hello" {
					return http.StatusServiceUnavailable // nginx says it by a stream
				}
				return http.StatusOK
			}
			for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
				for range 12 { // that one address may have
					is.Equal(probe(from), http.StatusOK)
				}
				is.Equal(probe(from), http.StatusServiceUnavailable)
			}
		})
	}
}
