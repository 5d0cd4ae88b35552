package process

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// silence is for how long each stream is left alone: for longer than the minute after which
// much of what stands between ends one; in CI for two minutes, so long as the hub's own
// timeouts are at most, which its tests have in a bubble.
func silence() time.Duration {
	if hubtest.CI() {
		return 2 * time.Minute
	}
	return 65 * time.Second
}

// startPlainNginx is an nginx before a hub, with what docs/recipes.md asks of a proxy.
func startPlainNginx(t *testing.T, hub string) (addr string) {
	t.Helper()
	is := is.New(t)
	dir := t.TempDir()
	addr = fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
	config := filepath.Join(dir, "nginx.conf")
	is.NoErr(os.WriteFile(config, fmt.Appendf(nil, `
		daemon off;
		master_process off;
		pid %[1]s/pid;
		error_log stderr crit;
		events { worker_connections 64; }
		http {
			access_log off;
			client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
			server {
				listen %[2]s;
				location / {
					proxy_pass http://%[3]s;
					proxy_http_version 1.1;
					proxy_set_header Connection "";
					proxy_set_header Host $http_host;
					proxy_buffering off;
					proxy_read_timeout 45s;
				}
			}
		}`, dir, addr, hub), 0o600))
	cmd := exec.Command("nginx", "-c", config, "-p", dir)
	cmd.Stderr = t.Output()
	is.NoErr(cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	testkit.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}

// In real time, with the default settings, through sockets of the system and nginx: a
// stream that nothing happens on is open on each transport, and so is one without
// heartbeats.
func TestSilenceInRealTime(t *testing.T) {
	t.Parallel()
	cert, key := hubtest.WriteCertificate(t, t.TempDir(), "localhost")
	open := hubtest.Start(t, "REALTIME_PRESENCE_AUDIENCE=none") // or streams would hear of each other
	secured := hubtest.Start(t, "REALTIME_PRESENCE_AUDIENCE=none", "REALTIME_TLS_CERT="+cert, "REALTIME_TLS_KEY="+key)
	roots := hubtest.RootsOf(t, cert)
	doors := map[string]string{"HTTP/1.1": open.Addr, "h2c": open.Addr, "TLS": secured.Addr, "h2": secured.Addr}
	// Goroutines, as of subtests only so many run at once.
	held := make(chan error)
	n := 0
	hold := func(name string, test func() error) {
		n++
		go func() {
			err := test()
			if err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
			held <- err
		}()
	}
	for name, way := range hubtest.Transports {
		url := map[bool]string{false: "http://", true: "https://"}[way.Secure] + doors[name]
		transport := hubtest.TransportTo(way.Secure, way.HTTP2, roots, nil)
		defer transport.CloseIdleConnections()
		client := hubtest.CheckedClient(t, transport)
		hold(name, func() error { return holdStream(t, client, url) })
		hold(name+", the doctor's", func() error { return holdProbe(t, client, url) })
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	if _, err := exec.LookPath("nginx"); err == nil {
		nginx := "http://" + startPlainNginx(t, open.Addr)
		client := &http.Client{Transport: transport} // nginx takes X-Accel-Buffering out, which the contract wants
		hold("nginx", func() error { return holdStream(t, client, nginx) })
	}
	for range n {
		if err := <-held; err != nil {
			t.Error(err)
		}
	}
	hubtest.Needs(t, "nginx") // last: what needs none is held all the same
}

// next is an event that is to be the next one of a stream.
func next(reader *hubtest.Reader, want string) (sse.Event, error) {
	event, err := reader.Next()
	if err == nil && event.Type != want {
		err = fmt.Errorf("%s came instead of %s", event.Type, want)
	}
	return event, err
}

// holdStream opens a stream that is silent for so long, and is then sent an event.
func holdStream(t *testing.T, client *http.Client, url string) error {
	res, err := client.Get(url + "/v1/stream?tenant=acme&profile=user:1")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	reader := hubtest.NewReader(t, res.Body)
	event, err := next(reader, "hub.ready")
	if err != nil {
		return err
	}
	var ready struct{ ConnectionID string }
	if err := json.Unmarshal([]byte(event.Data), &ready); err != nil {
		return err
	}
	published := make(chan error, 1)
	timer := time.AfterFunc(silence(), func() {
		body := strings.NewReader(`{"type":"a.b","payload":1}`)
		res, err := client.Post(url+"/v1/tenants/acme/connections/"+ready.ConnectionID+"/events", "application/json", body)
		if err == nil {
			res.Body.Close()
		}
		published <- err
	})
	if _, err := next(reader, "a.b"); err != nil {
		timer.Stop()
		return err // it was silent, and has ended
	}
	return <-published
}

// holdProbe opens a stream that is without a byte for so long.
func holdProbe(t *testing.T, client *http.Client, url string) error {
	res, err := client.Get(fmt.Sprint(url, "/v1/doctor?every=0&for=", silence()))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	reader := hubtest.NewReader(t, res.Body)
	if _, err := next(reader, "doctor.hello"); err != nil {
		return err
	}
	_, err = next(reader, "doctor.done")
	return err
}
