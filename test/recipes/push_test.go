//go:build unix

package recipes

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// pushService is where the recipe's service hands over to.
type pushService struct {
	mu sync.Mutex
	// Guarded by mu.
	taken      []string // each as "id to text"
	unanswered []string
	hangs      bool // it answers nobody
}

func (p *pushService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var push struct{ ID, To, Text string }
	json.NewDecoder(r.Body).Decode(&push)
	line := fmt.Sprint(push.ID, " ", push.To, " ", push.Text)
	if p.take(line) {
		w.WriteHeader(http.StatusCreated)
		return
	}
	<-r.Context().Done()
}

func (p *pushService) take(line string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hangs {
		p.unanswered = append(p.unanswered, line)
	} else {
		p.taken = append(p.taken, line)
	}
	return !p.hangs
}

func (p *pushService) hang(hangs bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hangs = hangs
}

func (p *pushService) seen() (taken, unanswered []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.taken), slices.Clone(p.unanswered)
}

const hookSecret = "whsec_QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD"

// webhook calls a service as a hub does that has nothing new, with a good signature or a bad one.
func (r *recipes) webhook(url string, good bool) (status int) {
	r.t.Helper()
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(hookSecret, "whsec_"))
	const body = `{"type":"batch","data":{"items":[]}}`
	now, mac := fmt.Sprint(time.Now().Unix()), hmac.New(sha256.New, key)
	mac.Write([]byte("msg_1." + now + "." + body))
	if !good {
		mac.Write([]byte("."))
	}
	signature := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	status, _ = r.call(http.MethodPost, url, body, "webhook-id", "msg_1", "webhook-timestamp", now, "webhook-signature", "v1,"+signature)
	return status
}

// Of a message of the recipe each person is pushed to who was offline, at once, and who has not
// acknowledged it by the deadline, once, though the service that does it is killed between and
// in the middle of that, and webhooks come again.
func TestRecipesPush(t *testing.T) {
	t.Parallel()
	needNode(t)
	needs(t, "curl")
	is := is.New(t)
	addr := "127.0.0.1:" + freePort(t)
	r := newRecipes(t, "REALTIME_WEBHOOK_URL=http://"+addr, "REALTIME_WEBHOOK_SECRET="+hookSecret, "REALTIME_WEBHOOK_TYPES=event.undelivered")
	pushes := new(pushService)
	server := httptest.NewServer(pushes)
	t.Cleanup(server.Close)
	_, port, _ := strings.Cut(addr, ":")
	r.environ = append(r.environ, "WEBHOOK_SECRET="+hookSecret, "PORT="+port, "PUSH_URL="+server.URL)
	serve := func(look string) (kill func()) {
		cmd := r.command("node", "push.mjs")
		cmd.Env = append(r.environ, "LOOK_SECONDS="+look)
		cmd.Stderr = t.Output()
		is.NoErr(cmd.Start())
		kill = sync.OnceFunc(func() {
			cmd.Cancel()
			cmd.Wait()
		})
		t.Cleanup(kill)
		return kill
	}
	script := ""
	for _, block := range shellBlocks(t, recipesPage) {
		if strings.Contains(block, "message-7") {
			script = strings.ReplaceAll(block, `"15s"`, `"40s"`) // time for all that happens before a deadline
		}
	}
	publish := func(id string) {
		t.Helper()
		out, err := r.command("sh", "-euc", strings.ReplaceAll(script, "message-7", id)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"members":5`) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	pushed := func(line string) {
		t.Helper()
		eventually(t, func() bool {
			taken, _ := pushes.seen()
			return slices.Contains(taken, line)
		})
	}
	hub := &hubtest.Hub{URL: r.url, Client: hubtest.CheckedClient(t, &http.Transport{DisableKeepAlives: true})}
	open := func(name string) *hubtest.Stream {
		return hub.Open(t, "ack=true", "Authorization", bearer(t, "sub", "user:"+name, "scope", "subscribe"))
	}
	handles := func(name string, s *hubtest.Stream) {
		t.Helper()
		body := `{"cursor":"` + s.Until(t, "message.received").ID + `"}`
		status, _ := hub.Post(t, "/v1/connections/"+s.ConnectionID+"/ack", body, "Authorization", bearer(t, "sub", "user:"+name, "scope", "subscribe"))
		is.Equal(status, http.StatusNoContent)
	}
	status, _ := r.hub(http.MethodPut, "/v1/tenants/acme/conversations/room-1/members",
		`{"members":["user:ann","user:handles","user:idle","user:loads","user:offline"]}`)
	is.Equal(status, http.StatusNoContent)
	handler, leaver := open("handles"), open("loads")
	open("idle")

	kill := serve("3600")
	hubtest.BreakOff(t, addr)
	publish("message-7")
	handles("handles", handler)
	pushed("message-7 user:offline hello") // a webhook has told of it, since nobody has looked
	loader := open("loads")                // the page is loaded anew
	leaver.Close()
	place := filepath.Join(r.dir, "place.txt")
	eventually(t, func() bool { _, err := os.Stat(place); return err == nil })
	kill()

	publish("message-8")
	handles("handles", handler)
	handles("loads", loader)
	pushes.hang(true)
	kill = serve("1")
	eventually(t, func() bool { _, unanswered := pushes.seen(); return len(unanswered) > 0 })
	kill()
	pushes.hang(false)
	serve("1")
	_, unanswered := pushes.seen()
	pushed(unanswered[0]) // again, with the same id
	is.Equal(r.webhook("http://"+addr, true), http.StatusNoContent)
	is.Equal(r.webhook("http://"+addr, true), http.StatusNoContent)
	is.Equal(r.webhook("http://"+addr, false), http.StatusUnauthorized)
	pushed("message-8 user:idle hello") // the last one
	taken, _ := pushes.seen()
	is.Equal(taken[0], "message-7 user:offline hello") // at once: together they would be in order
	slices.Sort(taken)
	is.Equal(taken, []string{"message-7 user:idle hello", "message-7 user:offline hello", "message-8 user:idle hello", "message-8 user:offline hello"})
}
