package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/settings"
	"realtimehub/internal/webhook"
)

const hookSecret = "whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD"

// hooked is a hub that sends to a URL.
func hooked(t *testing.T, url string) *testHub {
	t.Helper()
	h := newTestHub(t)
	cfg, err := settings.Load([]string{"REALTIME_WEBHOOK_URL=" + url, "REALTIME_WEBHOOK_SECRET=whsec_REVGREVGREVGREVGREVGREVGREVGREVG," + hookSecret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Tell(t.Context(), cfg))
	return h
}

// The receivers of docs/webhooks.md take what a hub sends, once, and nothing else.
func TestDocsReceivers(t *testing.T) {
	alone(t, "each hub has an outbox in memory")
	t.Parallel()
	for name, command := range map[string][]string{
		"node": {"node", "receive.mjs"}, "python3": {"python3", "receive.py"}, "php": {"php", "-S", "127.0.0.1:PORT", "receive.php"}, "go": {"go", "run", "receive.go"},
	} {
		t.Run(name, func(t *testing.T) {
			hubtest.Needs(t, name)
			is := is.New(t)
			dir, port := t.TempDir(), strconv.Itoa(natstest.FreePort(t))
			hubtest.WriteFiles(t, "docs/webhooks.md", dir)
			for i := range command {
				command[i] = strings.ReplaceAll(command[i], "PORT", port)
			}
			if name == "go" { // what go run starts would outlive it
				build := exec.CommandContext(t.Context(), "go", "build", "-o", "receive", "receive.go")
				build.Dir = dir
				out, err := build.CombinedOutput()
				is.NoErr(err) // what is on the page compiles
				is.Equal(string(out), "")
				command = []string{filepath.Join(dir, "receive")}
			}
			var printed syncBuffer
			receiver := exec.CommandContext(t.Context(), command[0], command[1:]...)
			receiver.Dir, receiver.Env = dir, append(os.Environ(), "PORT="+port, "WEBHOOK_SECRET="+hookSecret)
			receiver.Stdout = &printed
			is.NoErr(receiver.Start())
			defer receiver.Wait()
			defer receiver.Process.Kill()
			hubtest.BreakOff(t, "127.0.0.1:"+port)
			url := "http://127.0.0.1:" + port + "/"
			forged := forge(t, url)
			is.Equal(forged("msg_1", time.Now(), true), http.StatusNoContent)
			is.Equal(forged("msg_1", time.Now(), false), http.StatusUnauthorized)
			is.Equal(forged("msg_1", time.Now().Add(-6*time.Minute), true), http.StatusUnauthorized)
			is.Equal(forged("msg_1", time.Now().Add(6*time.Minute), true), http.StatusUnauthorized)

			h := hooked(t, url)
			tell(t, h, "acme", 120, 10)
			eventually(t, func() bool { return h.outbox.Stats().Untaken == 0 })
			want := "a.forged acme 7\n"
			for _, item := range readOutbox(t, h, "?limit=1000").Items {
				var told struct{ Data struct{ Seq uint64 } }
				is.NoErr(json.Unmarshal(item, &told))
				want += fmt.Sprintln("presence.changed", "acme", told.Data.Seq)
			}
			eventually(t, func() bool { return printed.String() == want })
			is.Equal(h.webhook.Stats().Repeated, int64(0)) // it took each at once
		})
	}
}

// forge sends what no hub has sent, signed by its secret or by another.
func forge(t *testing.T, url string) func(id string, at time.Time, good bool) (status int) {
	return func(id string, at time.Time, good bool) int {
		t.Helper()
		secret := hookSecret
		if !good {
			secret = strings.Replace(hookSecret, "QUJD", "REVG", 1)
		}
		keys, err := webhook.ParseSecrets([]string{secret})
		if err != nil {
			t.Fatal(err)
		}
		body := []byte(`{"type":"batch","data":{"items":[{"type":"a.forged","data":{"tenantId":"acme","seq":7}}]}}`)
		req, err := http.NewRequestWithContext(t.Context(), "POST", url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("webhook-id", id)
		req.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		req.Header.Set("webhook-signature", keys.Sign(id, at, body))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
}

// The package that the specification's authors publish accepts what a hub sends.
func TestStandardWebhooksPackage(t *testing.T) {
	alone(t, "each hub has an outbox in memory")
	t.Parallel()
	hubtest.Needs(t, "node")
	hubtest.Needs(t, "npm")
	is := is.New(t)
	dir := t.TempDir()
	is.NoErr(os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"private":true}`), 0o644))
	install := exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "standardwebhooks@1.0.0")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		hubtest.Lacks(t, "npm cannot install: "+string(out))
	}
	calls := make(chan hookCall, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls <- hookCall{r.URL.Path, r.Header, string(body)}
	}))
	defer server.Close()
	tell(t, hooked(t, server.URL+"/hooks/{tenant}"), "acme", 3, 10)
	call := <-calls
	headers := map[string]string{}
	for name := range call.header {
		headers[strings.ToLower(name)] = call.header.Get(name)
	}
	message, err := json.Marshal(map[string]any{"headers": headers, "body": call.body, "secret": hookSecret})
	is.NoErr(err)
	check := exec.CommandContext(t.Context(), "node", "-e", `
		const { Webhook } = require('standardwebhooks');
		const { headers, body, secret } = JSON.parse(require('fs').readFileSync(0));
		console.log(new Webhook(secret).verify(body, headers).data.items.length);
		try { new Webhook(secret).verify(body + ' ', headers); console.log('taken'); } catch { console.log('refused'); }`)
	check.Dir, check.Stdin = dir, bytes.NewReader(message)
	out, err := check.CombinedOutput()
	is.NoErr(err) // what it printed
	is.Equal(string(out), "3\nrefused\n")
}
