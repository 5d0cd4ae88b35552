//go:build unix

package recipes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// The doctor names what nginx and HAProxy are told wrongly, and the door to use meanwhile.
func TestDoctorOfProxies(t *testing.T) {
	t.Parallel()
	nginx := func(others, sockets string) func(*testing.T, string) *front {
		return func(t *testing.T, hub string) *front {
			t.Helper()
			return configuredNginx(t, fmt.Sprintf(`worker_processes auto;
events {}
http {
map $http_upgrade $hop { default upgrade; "" ""; }
upstream hubs { server 10.0.0.1:8080 max_fails=0; }
server {
listen 80;
proxy_set_header Host $http_host;
location / { proxy_pass http://hubs; %s }
location ~ ^/(v1/socket|signalr) { proxy_pass http://hubs; %s }
}
}
`, others, sockets), hub)
		}
	}
	const (
		upgrade = "proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop; "
		buffer  = "proxy_ignore_headers X-Accel-Buffering; proxy_buffers 8 64k;"
		soon    = "proxy_read_timeout 1s; "
	)
	for name, tc := range map[string]struct {
		start func(t *testing.T, hub string) *front
		want  string // each door's troubles
		use   string
		says  string
	}{
		"as it comes": {nginx("", ""), "websocket:no-upgrade", "sse", "proxy_set_header Upgrade $http_upgrade"},
		"buffering":   {nginx(buffer, upgrade), "sse:buffered", "websocket", "proxy_buffering off"},
		"both":        {nginx(buffer, ""), "sse:buffered websocket:no-upgrade signalr:no-upgrade", "poll", "proxy_buffering off"},
		"silence":     {nginx(soon, soon+upgrade), "sse:idle-cut websocket:idle-cut poll:idle-cut", "", "proxy_read_timeout"},
		"a tunnel's silence": {func(t *testing.T, hub string) *front {
			t.Helper()
			needs(t, "haproxy")
			dir, port := t.TempDir(), freePort(t)
			config := fmt.Sprintf("defaults\n mode http\n option abortonclose\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n timeout tunnel 1s\nlisten hubs\n bind 127.0.0.1:%s\n server hub %s\n", port, strings.TrimPrefix(hub, "http://"))
			is.New(t).NoErr(os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(config), 0o600))
			return startFront(t, dir, port, "haproxy", "-f", "haproxy.cfg")
		}, "websocket:idle-cut", "sse", "WebSocket: A silent stream is cut after 1."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := tc.start(t, hubtest.Start(t).URL).url
			report := examined(t, url, "2s", "", tc.want)
			if report.troubles() != tc.want || report.Use != tc.use || !strings.Contains(report.text, tc.says) {
				t.Errorf("%q and use %q, or no %q:\n%s", report.troubles(), report.Use, tc.says, report.text)
			}
		})
	}
}

// report is what the doctor has to say.
type report struct {
	Use   string
	Doors []struct {
		Door string
		Why  []string
	}
	text string
}

// examined runs the doctor for a time: three times at most, until it names the troubles that
// are wanted. What a busy machine holds up looks as if the proxy did.
func examined(t *testing.T, url, watch, token, want string) (r report) {
	t.Helper()
	for try := 0; try == 0 || try < 3 && r.troubles() != want; try++ {
		r = examinedOnce(t, url, watch, token)
	}
	return r
}

func examinedOnce(t *testing.T, url, watch, token string) (r report) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), hubtest.Binary(t), "doctor", url, "-for", watch, "-json")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "REALTIME_TOKEN="+token), &out, &errs
	cmd.Run() // which fails where it has found trouble
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Doors) != 4 {
		t.Fatal(err, out.String(), errs.String())
	}
	r.text = out.String()
	return r
}

// troubles are those of each door.
func (r report) troubles() string {
	var all []string
	for _, door := range r.Doors {
		for _, code := range door.Why {
			all = append(all, door.Door+":"+code)
		}
	}
	return strings.Join(all, " ")
}
