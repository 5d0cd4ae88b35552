//go:build unix

package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/browsertest"
	"realtimehub/internal/hubtest"
)

// needNode is of a version that the pages ask for.
func needNode(t *testing.T) {
	t.Helper()
	version, _ := exec.Command("node", "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	if n, _ := strconv.Atoi(major); n < 20 {
		lacks(t, "there is no Node 20 or newer")
	}
}

// chat is the tutorial's folder and what runs there.
type chat struct {
	t             *testing.T
	home, dir     string
	hub, app, key string // two addresses, and the service's key
	environ       []string
}

// sh runs a block of the page as it stands.
func (c *chat) sh(dir, script string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), c.environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to be ended whole
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (c *chat) run(dir, script string) {
	c.t.Helper()
	if out, err := c.sh(dir, script).CombinedOutput(); err != nil {
		c.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
}

// start runs a block that goes on, until what is at url answers; stop is Ctrl+C.
func (c *chat) start(script, url string) (stop func()) {
	c.t.Helper()
	cmd, logs := c.sh(c.dir, script), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = logs, logs
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("%s\n%s", script, logs)
		}
	}
	c.t.Cleanup(stop)
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if res, err := client.Get(url); err == nil {
			res.Body.Close()
			return stop
		}
		if time.Now().After(deadline) {
			c.t.Errorf("nothing answers at %s", url)
			stop()
			c.t.FailNow()
		}
	}
}

// streams is how many the hub has open.
func (c *chat) streams() (n int) {
	c.t.Helper()
	req, _ := http.NewRequest(http.MethodGet, c.hub+"/v1/tenants/acme/connections", nil)
	req.Header.Set("X-API-Key", c.key)
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	var list struct{ Count int }
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || res.StatusCode != http.StatusOK {
		c.t.Fatal(res.Status, err)
	}
	return list.Count
}

// shows waits for a page, also as long as it takes to come back to a hub.
func (c *chat) shows(page context.Context, expression string) {
	c.t.Helper()
	var ok bool
	if err := chromedp.Run(page, chromedp.Poll(expression, &ok, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(time.Minute))); err != nil {
		var is string
		chromedp.Run(page, chromedp.Evaluate(`document.body.innerText + "\n" + JSON.stringify([globalThis.client?.status, globalThis.gaps, performance.getEntriesByType("resource").map(({name, responseStatus}) => responseStatus + " " + name)])`, &is))
		c.t.Fatalf("%s: %v; the page is\n%s", expression, err, is)
	}
}

// open is a tab of somebody; what it logs of a hub that is away is no fault.
func (c *chat) open(browser context.Context, name string) (page context.Context, closeTab func()) {
	c.t.Helper()
	page, cancel := chromedp.NewContext(browser)
	closeTab = func() { chromedp.Cancel(page); cancel() }
	c.t.Cleanup(closeTab)
	browsertest.Do(c.t, page, chromedp.Navigate(c.app+"/?name="+name))
	c.shows(page, `document.querySelector("#status").textContent.startsWith("live")`)
	browsertest.Do(c.t, page, chromedp.Evaluate(`globalThis.gaps = []; client.onGap(({reason}) => gaps.push(reason));
		globalThis.heard = []; client.on("message.received", ({payload}) => heard.push(payload.text)); 0`, nil))
	return page, closeTab
}

// The tutorial is done as it is written, by its own blocks, and then its chat is used.
func TestTutorial(t *testing.T) {
	t.Parallel()
	needNode(t)
	browser := browsertest.Start(t)
	is := is.New(t)
	const page = "docs/tutorial.md"
	blocks := shellBlocks(t, page)
	is.Equal(len(blocks), 4) // build, settings, hub, service

	c := &chat{t: t, home: t.TempDir()}
	c.dir = filepath.Join(c.home, "chat")
	hubPort, appPort := freePort(t), freePort(t)
	c.hub, c.app = "http://localhost:"+hubPort, "http://localhost:"+appPort
	goEnv, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	is.NoErr(err)
	caches := strings.Fields(string(goEnv))
	c.environ = []string{"HOME=" + c.home, "GOCACHE=" + caches[0], "GOMODCACHE=" + caches[1], "TOKEN_SECONDS=20"}

	c.run(hubtest.Root(), blocks[0])
	c.run(c.dir, strings.NewReplacer("8080", hubPort, "3000", appPort).Replace(blocks[1])) // the only other ports
	settings, err := os.ReadFile(filepath.Join(c.dir, "settings.env"))
	is.NoErr(err)
	_, c.key, _ = strings.Cut(string(settings), "HUB_KEY=")
	c.key, _, _ = strings.Cut(c.key, "\n")
	is.Equal(writeFiles(t, page, c.dir), []string{"service.mjs", "index.html", "chat.js"})
	stopHub := c.start(blocks[2], c.hub+"/readyz")
	c.start(blocks[3], c.app)

	ann, closeAnn := c.open(browser, "ann")
	bob, closeBob := c.open(browser, "bob")
	const bothOnline = `["ann (online)", "bob (online)"].every((one) => document.querySelector("#people").textContent.includes(one))`
	for _, page := range []context.Context{ann, bob} {
		c.shows(page, bothOnline)
	}
	says := func(page context.Context, text string) {
		t.Helper()
		browsertest.Do(t, page, chromedp.SendKeys("input", text, chromedp.ByQuery), chromedp.Click("button", chromedp.ByQuery))
	}
	lines := func(text ...string) string {
		all, _ := json.Marshal(text)
		return fmt.Sprintf(`JSON.stringify([...document.querySelectorAll("#messages .sent")].map((line) => line.textContent)) === %q && !document.querySelector(".sending")`, all)
	}
	browsertest.Do(t, bob, chromedp.SendKeys("input", "hello", chromedp.ByQuery))
	c.shows(ann, `document.querySelector("#typing").textContent === "bob is typing …"`)
	browsertest.Do(t, bob, chromedp.Click("button", chromedp.ByQuery))
	for _, page := range []context.Context{ann, bob} {
		c.shows(page, lines("bob: hello"))
	}
	c.shows(ann, `document.querySelector("#typing").textContent === "" && heard.join() === "hello"`)
	c.shows(bob, `heard.length === 0`) // its own echo

	t.Log("the second tab")
	second, _ := c.open(browser, "ann")
	c.shows(second, lines("bob: hello"))
	c.shows(second, `document.querySelector("#status").textContent === "live, through another tab" && !client.status.leader`)
	is.Equal(c.streams(), 2) // for three tabs of two people
	says(second, "two tabs")
	for _, page := range []context.Context{ann, bob, second} {
		c.shows(page, lines("bob: hello", "ann: two tabs"))
	}
	c.shows(ann, `heard.includes("two tabs")`) // another tab's is no echo

	t.Log("tokens")
	const renewals = `performance.getEntriesByType("resource").filter(({name, responseStatus}) => /connections\/[^/]+\/token$/.test(name) && responseStatus === 204).length`
	c.shows(bob, `performance.now() > 22_000 && `+renewals+` >= 2 && client.status.state === "live"`) // past its first token's end
	c.shows(bob, `client.status.reconnects === 0 && `+renewals+` < performance.now() / 1000`)         // and no storm

	t.Log("the hub is restarted")
	stopHub()
	says(ann, "nobody hears")
	all := []string{"bob: hello", "ann: two tabs", "ann: nobody hears"}
	c.shows(ann, lines(all...))
	c.start(blocks[2], c.hub+"/readyz")
	for _, page := range []context.Context{ann, bob, second} {
		c.shows(page, `gaps.join() === "unknown" && performance.getEntriesByType("resource").filter(({name}) => name.endsWith("/lobby")).length === 2`)
		c.shows(page, lines(all...))
		c.shows(page, bothOnline)
	}
	says(bob, "I do")
	all = append(all, "bob: I do")
	c.shows(ann, lines(all...))

	t.Log("no network")
	offline := func(is bool) { browsertest.Do(t, bob, network.EmulateNetworkConditions(is, 0, -1, -1)) }
	offline(true)
	browsertest.Do(t, bob, chromedp.Evaluate(`globalThis.reconnects = client.status.reconnects; 0`, nil))
	says(bob, "in a tunnel")
	c.shows(bob, `document.querySelector(".sending")?.textContent === "bob: in a tunnel"`)
	says(ann, "where is bob?")
	all = append(all, "ann: where is bob?")
	c.shows(ann, lines(all...))
	offline(false)
	all = append(all, "bob: in a tunnel")
	for _, page := range []context.Context{ann, bob} {
		c.shows(page, lines(all...))
	}
	c.shows(bob, `client.status.reconnects > reconnects && client.status.resume === "complete" && gaps.length === 1`)

	t.Log("a reload, the first tab closed, the end")
	browsertest.Do(t, bob, chromedp.Reload())
	c.shows(bob, lines(all...))
	closeAnn()
	c.shows(second, `client.status.leader && client.status.state === "live"`)
	says(bob, "still there?")
	c.shows(second, lines(append(all, "bob: still there?")...))
	closeBob()
	c.shows(second, `document.querySelector("#people").textContent.includes("bob (offline)")`)
}
