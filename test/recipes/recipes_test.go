//go:build unix

package recipes

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// recipes is a hub, and a folder with the files of the recipes' page.
type recipes struct {
	t       *testing.T
	dir     string
	url     string
	environ []string
	client  http.Client
}

const recipesPage = "docs/recipes.md"

func newRecipes(t *testing.T, settings ...string) *recipes {
	t.Helper()
	r := &recipes{
		t: t, dir: t.TempDir(), client: http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}},
		url: hubtest.Start(t, append(settings, "REALTIME_JWT_SECRET="+hubtest.Secret, "REALTIME_API_KEYS=acme=service-key-0001", "REALTIME_RETRY=100ms")...).URL,
	}
	token := strings.TrimPrefix(bearer(t, "sub", "user:42", "scope", "subscribe"), "Bearer ")
	r.environ = append(os.Environ(), "REALTIME_JWT_SECRET="+hubtest.Secret, "HUB="+r.url, "KEY=service-key-0001", "TOKEN="+token)
	writeFiles(t, recipesPage, r.dir)
	return r
}

// with is for a subtest, which fails itself and cleans up behind itself.
func (r *recipes) with(t *testing.T) *recipes {
	of := *r
	of.t = t
	return &of
}

// command is killed with all that it started when the test ends.
func (r *recipes) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = r.dir, r.environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// start runs what does not end by itself, and collects what it prints.
func (r *recipes) start(name string, args ...string) (printed *testkit.Buffer) {
	r.t.Helper()
	cmd, printed := r.command(name, args...), new(testkit.Buffer)
	cmd.Stdout, cmd.Stderr = printed, printed
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cmd.Cancel(); cmd.Wait() })
	return printed
}

func (r *recipes) prints(printed *testkit.Buffer, want string) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(printed.String(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%q does not come; there is\n%s", want, printed)
		}
	}
}

func (r *recipes) call(method, url, body string, headers ...string) (status int, answer map[string]any) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	json.NewDecoder(res.Body).Decode(&answer)
	return res.StatusCode, answer
}

func (r *recipes) hub(method, path, body string) (status int, answer map[string]any) {
	r.t.Helper()
	return r.call(method, r.url+path, body, "X-API-Key", "service-key-0001", "Content-Type", "application/json")
}

// What the pages have their reader type works as it stands.
func TestRecipesInTheShell(t *testing.T) {
	needs(t, "curl")
	r := newRecipes(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"members":["user:42"]}`) }))
	defer service.Close()
	asking := newRecipes(t, "REALTIME_MEMBERSHIP_URL="+service.URL)
	scripts := append(shellBlocks(t, recipesPage), shellBlocks(t, "docs/faq.md")...)
	if len(scripts) < 8 {
		t.Fatalf("only %d blocks were found", len(scripts))
	}
	for _, script := range scripts {
		r := r
		if strings.Contains(script, "/members/refresh") { // there is nobody to ask else
			r = asking
		}
		if strings.Contains(script, "/v1/stream") {
			r.prints(r.start("sh", "-c", script), "event: hub.ready")
			continue
		}
		out, err := r.command("sh", "-euc", script).CombinedOutput()
		if err != nil || strings.Contains(string(out), `"errors"`) {
			t.Errorf("%s\n%v\n%s", script, err, out)
		}
	}
}

// Each language's token is one that the hub takes, and says what it should.
func TestRecipesMint(t *testing.T) {
	r := newRecipes(t)
	hub := &hubtest.Hub{URL: r.url, Client: hubtest.CheckedClient(t, &http.Transport{DisableKeepAlives: true})}
	for _, one := range []struct {
		program, file string
	}{
		{"node", "mint.mjs"}, {"go", "mint.go"}, {"python3", "mint.py"},
		{"php", "mint.php"}, {"ruby", "mint.rb"}, {"java", "Mint.java"},
	} {
		t.Run(one.program, func(t *testing.T) {
			needs(t, one.program)
			is := is.New(t)
			args := []string{one.file}
			if one.program == "go" {
				args = []string{"run", one.file}
			}
			cmd := r.with(t).command(one.program, args...)
			complaint := new(bytes.Buffer)
			cmd.Stderr = complaint
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, complaint)
			}
			token := strings.TrimSpace(string(out))
			ready := hub.Open(t, "presence=none", "Authorization", "Bearer "+token).Ready
			var hello struct {
				TenantID string
				Profile  struct{ Type, ID string }
			}
			is.NoErr(json.Unmarshal([]byte(ready.Data), &hello))
			is.Equal(hello.TenantID, "acme")
			is.Equal(hello.Profile.Type+":"+hello.Profile.ID, "user:42")
			var claims jwt.RegisteredClaims
			_, _, err = jwt.NewParser().ParseUnverified(token, &claims)
			is.NoErr(err)
			life := time.Until(claims.ExpiresAt.Time)
			is.True(life > 4*time.Minute && life <= 5*time.Minute)
			for method, path := range map[string]string{http.MethodPost: "/v1/tenants/acme/events", http.MethodGet: "/v1/tenants/acme/connections"} {
				status, answer := hub.Do(t, method, path, "", "Authorization", "Bearer "+token)
				is.Equal(status, http.StatusForbidden) // it lets its owner listen, and no more
				is.Equal(answer["code"], "ScopeRequired")
			}
		})
	}
}

// Each listener hears what is published, comes back when its stream is ended, and
// has what it missed.
func TestRecipesListen(t *testing.T) {
	r := newRecipes(t)
	status, _ := r.call(http.MethodGet, r.url+"/realtime.js", "")
	if status != http.StatusOK {
		t.Fatal(status)
	}
	client := hubtest.ReadFile(t, "web/realtime.js")
	if err := os.WriteFile(filepath.Join(r.dir, "realtime.mjs"), []byte(client), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct{ program, script string }{
		{"node", "node listen.mjs"}, {"python3", "python3 listen.py"}, {"go", "./listen"},
	} {
		t.Run(one.program, func(t *testing.T) {
			if one.program == "node" {
				needNode(t)
			}
			needs(t, one.program)
			r := r.with(t)
			is := is.New(t)
			if one.program == "go" { // however long it takes to build it
				out, err := r.command("go", "build", "listen.go").CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			wire := hubtest.NewWire(t, r.url)
			r.environ = append(r.environ, "HUB="+wire.URL)
			publish := func(text string) {
				status, _ := r.hub(http.MethodPost, "/v1/tenants/acme/profiles/user:42/events", `{"type":"order.paid","payload":{"is":"`+text+`"}}`)
				is.Equal(status, http.StatusAccepted)
			}
			r.connected(0) // the one before it is gone
			printed := r.start("sh", "-c", "exec "+one.script)
			r.connected(1)
			publish("live")
			r.prints(printed, "live")
			wire.Set(true)
			r.connected(0)
			publish("missed")
			wire.Set(false)
			r.prints(printed, "missed")
			is.True(!strings.Contains(printed.String(), "None"))                                             // the hub's own events have no payload
			is.Equal(strings.Count(printed.String(), `"live"`)+strings.Count(printed.String(), `'live'`), 1) // not told twice
		})
	}
}

// connected waits until user:42 has so many streams.
func (r *recipes) connected(n int) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, list := r.hub(http.MethodGet, "/v1/tenants/acme/connections?profile=user:42", "")
		if list["count"] == float64(n) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not %d streams: %v", n, list)
		}
	}
}

func TestRecipesPublish(t *testing.T) {
	needNode(t)
	r := newRecipes(t)
	for _, want := range []string{"duplicate: false", "duplicate: true"} {
		out, err := r.command("node", "publish.mjs").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// A webhook is believed by its signature, and one that is delivered twice is one event.
func TestRecipesWebhook(t *testing.T) {
	needNode(t)
	is := is.New(t)
	r := newRecipes(t)
	port := freePort(t)
	r.environ = append(r.environ, "WEBHOOK_SECRET=shared", "PORT="+port)
	r.start("node", "webhook.mjs")
	const body = `{"action":"opened","repository":{"full_name":"acme/shop"}}`
	mac := hmac.New(sha256.New, []byte("shared"))
	mac.Write([]byte(body))
	deliver := func(signature string) (status int) {
		status, _ = r.call(http.MethodPost, "http://localhost:"+port, body,
			"X-Hub-Signature-256", "sha256="+signature, "X-GitHub-Delivery", "delivery-1", "X-GitHub-Event", "issues")
		return status
	}
	hubtest.BreakOff(t, "localhost:"+port)
	good := hex.EncodeToString(mac.Sum(nil))
	is.Equal(deliver(good), http.StatusNoContent)
	is.Equal(deliver(good), http.StatusNoContent)
	is.Equal(deliver(strings.Repeat("0", len(good))), http.StatusUnauthorized)
	is.Equal(deliver(""), http.StatusUnauthorized)
	_, history := r.hub(http.MethodGet, "/v1/tenants/acme/events", "")
	events := history["events"].([]any)
	is.Equal(len(events), 1)
	is.Equal(events[0].(map[string]any)["type"], "github.issues")
}
