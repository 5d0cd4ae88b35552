//go:build unix

package recipes

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// front is a real proxy before a hub, or before where none is.
type front struct{ url string }

// startFront runs a proxy that is configured in dir until the test ends.
func startFront(t *testing.T, dir, port string, command ...string) *front {
	t.Helper()
	printed := new(testkit.Buffer)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, printed, printed
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		cmd.Wait()
		close(over)
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-over:
		case <-time.After(10 * time.Second):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-over
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", command[0], printed)
		}
	})
	f := &front{"http://127.0.0.1:" + port}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		res, err := client.Get(f.url + "/healthz")
		if err == nil {
			res.Body.Close()
			return f
		}
		select {
		case <-over:
			t.Fatalf("%s ended:\n%s", command[0], printed)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v\n%s", command[0], err, printed)
		}
	}
}

// configuredNginx runs a configuration, its own paths and ports changed for this machine, and its
// hubs to these in turn.
func configuredNginx(t *testing.T, config string, hubs ...string) *front {
	t.Helper()
	needs(t, "nginx")
	dir, port := t.TempDir(), freePort(t)
	for _, change := range []struct{ from, to string }{
		{`listen 80;`, "listen 127.0.0.1:" + port + ";"},
		{`access_log /dev/stdout hub;`, "access_log off;"},
		{`worker_processes auto;`, "worker_processes 1; daemon off; pid nginx.pid;"},
		{`(?m)^http \{$`, "http { client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;"},
	} {
		config = regexp.MustCompile(change.from).ReplaceAllString(config, change.to)
	}
	turn := 0
	config = regexp.MustCompile(`server \d+\.\d+\.\d+\.\d+:8080 `).ReplaceAllStringFunc(config, func(string) string {
		turn++
		return "server " + strings.TrimPrefix(hubs[(turn-1)%len(hubs)], "http://") + " "
	})
	if os.Getuid() == 0 {
		config = "user root;\n" + config // which may write into the test's folder
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nginx", "-t", "-p", dir, "-e", "stderr", "-c", "nginx.conf").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return startFront(t, dir, port, "nginx", "-p", dir, "-e", "stderr", "-c", "nginx.conf")
}

// recipesNginx is a configuration with what the recipes have their reader add.
func recipesNginx(t *testing.T) string {
	t.Helper()
	var parts []string
	for _, b := range blocksOf(t, recipesPage) {
		if b.Language == "nginx" {
			parts = append(parts, b.Text)
		}
	}
	if len(parts) != 2 {
		t.Fatalf("the recipes have %d parts for nginx", len(parts))
	}
	return fmt.Sprintf("worker_processes auto;\nevents {}\nhttp {\nupstream hubs { server 10.0.0.1:8080 max_fails=0; }\n%s\nserver {\nlisten 80;\n%s\nlocation / { proxy_pass http://hubs; }\n}\n}\n", parts[0], parts[1])
}

func deployNginx(t *testing.T) string {
	t.Helper()
	return hubtest.ReadFile(t, "deploy/nginx.conf")
}

// The files and the recipes work with the proxies themselves: an event comes at once,
// who closes is gone at once, Host arrives, and no hub is no error for EventSource.
func TestDeployNginx(t *testing.T) {
	for name, config := range map[string]func(*testing.T) string{"file": deployNginx, "recipe": recipesNginx} {
		t.Run(name, func(t *testing.T) {
			h := hubBehind(t)
			holdsFront(t, h, configuredNginx(t, config(t), h.URL))
		})
		t.Run(name+" without a hub", func(t *testing.T) {
			saysLater(t, configuredNginx(t, config(t), "127.0.0.1:1"), false)
		})
	}
}

// NDJSON goes both ways at once.
func TestDeployNginxLines(t *testing.T) {
	is := is.New(t)
	f := configuredNginx(t, deployNginx(t), hubBehind(t).URL)
	lines, send := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/v1/events?results=all", lines)
	is.NoErr(err)
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("X-API-Key", "service-key-0001")
	go io.WriteString(send, `{"tenantId":"acme","type":"post.created","payload":1,"target":{"kind":"tenant"}}`+"\n")
	res, err := http.DefaultTransport.RoundTrip(req)
	is.NoErr(err)
	defer res.Body.Close()
	answers := bufio.NewScanner(res.Body)
	is.True(answers.Scan()) // while the body is still being sent
	is.True(strings.HasPrefix(answers.Text(), `{"line":1,`))
	send.Close()
	is.True(answers.Scan())
	is.True(strings.HasPrefix(answers.Text(), `{"accepted":1,`))
}

// HAProxy as the recipes have it, in a backend that has the streams only.
func TestDeployHAProxy(t *testing.T) {
	needs(t, "haproxy")
	start := func(t *testing.T, hub string) *front {
		t.Helper()
		dir, port := t.TempDir(), freePort(t)
		writeFiles(t, recipesPage, dir)
		config := ""
		for _, b := range blocksOf(t, recipesPage) {
			if b.Language == "haproxy" {
				config = b.Text
			}
		}
		for _, change := range []struct{ from, to string }{
			{`bind :80\b`, "bind 127.0.0.1:" + port},
			{`/etc/haproxy/`, dir + "/"},
			{`hub\d:8080`, strings.TrimPrefix(hub, "http://")},
		} {
			config = regexp.MustCompile(change.from).ReplaceAllString(config, change.to)
		}
		if err := os.WriteFile(filepath.Join(dir, "haproxy.cfg"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		return startFront(t, dir, port, "haproxy", "-f", "haproxy.cfg")
	}
	t.Run("recipe", func(t *testing.T) {
		h := hubBehind(t)
		holdsFront(t, h, start(t, h.URL))
	})
	t.Run("recipe without a hub", func(t *testing.T) {
		saysLater(t, start(t, "127.0.0.1:1"), true)
	})
}

// hubBehind is a hub as it is behind a proxy: with credentials, as open mode answers no
// foreign Host, and none that a health check leaves out. Nothing but its client's
// leaving ends a stream soon. What reaches it, and what it says, is held against the
// contract.
func hubBehind(t *testing.T) *hubtest.Hub {
	t.Helper()
	p := hubtest.Start(t, "REALTIME_JWT_SECRET="+hubtest.Secret, "REALTIME_API_KEYS=acme=service-key-0001", "REALTIME_HEARTBEAT=10m")
	return &hubtest.Hub{URL: hubtest.CheckedFront(t, p.URL).URL, Client: p.Client}
}

// ask asks with the service's key, or with a person's token where key is false.
func (f *front) ask(t *testing.T, ctx context.Context, key bool, method, path, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if req.Header.Set("Authorization", bearer(t, "sub", "user:1")); key {
		req.Header.Set("Authorization", "Bearer service-key-0001")
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// holdsFront says what must hold of a hub behind a proxy.
func holdsFront(t *testing.T, h *hubtest.Hub, f *front) {
	t.Helper()
	is := is.New(t)
	event, err := hubtest.NewReader(t, f.ask(t, t.Context(), true, http.MethodGet, "/v1/doctor?every=0&for=1ms", "").Body).Next()
	is.NoErr(err)
	var hello struct{ Host string }
	is.NoErr(json.Unmarshal([]byte(event.Data), &hello))
	is.Equal(hello.Host, strings.TrimPrefix(f.url, "http://")) // a cookie is believed by it
	ctx, leave := context.WithTimeout(t.Context(), time.Minute)
	defer leave()
	reader := hubtest.NewReader(t, f.ask(t, ctx, false, http.MethodGet, "/v1/stream", "").Body)
	event, err = reader.Next()
	is.NoErr(err)
	is.Equal(event.Type, "hub.ready")
	is.Equal(f.ask(t, t.Context(), true, http.MethodPost, "/v1/tenants/acme/events", `{"type":"post.created","payload":1}`).StatusCode, http.StatusAccepted)
	for event.Type != "post.created" {
		event, err = reader.Next()
		is.NoErr(err)
	}
	leave()
	nobody := func() bool {
		status, list := h.Do(t, http.MethodGet, "/v1/tenants/acme/connections", "", "X-API-Key", "service-key-0001")
		is.Equal(status, http.StatusOK)
		return list["count"] == 0.0
	}
	eventually(t, nobody) // long before a heartbeat could tell
	holdsDoors(t, &hubtest.Hub{URL: f.url, Client: http.DefaultClient}, nobody)
}

// holdsDoors holds of the doors beside Server-Sent Events: a WebSocket and its end, SignalR, polls.
func holdsDoors(t *testing.T, through *hubtest.Hub, nobody func() bool) {
	t.Helper()
	is := is.New(t)
	me := bearer(t, "sub", "user:1")
	publish := func() {
		status, _ := through.Do(t, http.MethodPost, "/v1/tenants/acme/events", `{"type":"post.created","payload":1}`, "X-API-Key", "service-key-0001", "Content-Type", "application/json")
		is.Equal(status, http.StatusAccepted)
	}
	socket := through.OpenSocket(t, "", "Authorization", me)
	publish()
	socket.Until(t, "post.created")
	socket.Close()
	eventually(t, nobody)

	status, here := through.Do(t, http.MethodGet, "/v1/poll?client=a&presence=none", "", "Authorization", me)
	is.Equal(status, http.StatusOK)
	publish()
	status, news := through.Do(t, http.MethodGet, "/v1/poll?client=a&presence=none&cursor="+here["cursor"].(string), "", "Authorization", me)
	is.Equal(status, http.StatusOK)
	is.Equal(len(news["events"].([]any)), 1)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	status, session := through.Do(t, http.MethodPost, "/signalr/negotiate?negotiateVersion=1", "", "Authorization", me)
	is.Equal(status, http.StatusOK)
	conn, _, err := websocket.Dial(ctx, through.URL+"/signalr?id="+session["connectionToken"].(string), &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {me}}})
	is.NoErr(err)
	defer conn.CloseNow()
	is.NoErr(conn.Write(ctx, websocket.MessageText, []byte(`{"protocol":"json","version":1}`+"\x1e")))
	text := ""
	for !strings.Contains(text, `"target":"hub.ready"`) {
		_, more, err := conn.Read(ctx)
		is.NoErr(err)
		text += string(more)
	}
	is.True(strings.HasPrefix(text, "{}\x1e"))

	is.Equal(examined(t, through.URL, "1s", "service-key-0001", "").troubles(), "")
}

// saysLater holds of a proxy without a hub.
func saysLater(t *testing.T, f *front, alsoOthers bool) {
	t.Helper()
	is := is.New(t)
	for _, path := range []string{"/v1/stream?tenant=acme&profile=user:1", "/v1/doctor"} { // the doctor sees what streams see
		res, err := http.Get(f.url + path)
		is.NoErr(err)
		is.Equal(res.StatusCode, http.StatusOK)
		kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
		is.Equal(kind, "text/event-stream")
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		is.NoErr(err)
		is.True(regexp.MustCompile(`(?m)^retry: [0-9]{4}\r?\n\r?$`).Match(body)) // when to come back
	}
	res, err := http.Get(f.url + "/v1/events")
	is.NoErr(err)
	res.Body.Close()
	is.Equal(res.StatusCode >= 502, !alsoOthers) // others are told the truth
}
