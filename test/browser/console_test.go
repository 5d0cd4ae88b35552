package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"
)

// inPane is a selector, or an expression, of one person's pane in the console.
func inPane(name, selector string) string {
	return `.pane[data-profile="user:` + name + `"] ` + selector
}

func textOf(selector string) string {
	return fmt.Sprintf("(document.querySelector(%q)?.textContent ?? null)", selector)
}

func contains(selector, text string) string {
	return fmt.Sprintf("(document.querySelector(%q)?.textContent.includes(%q) === true)", selector, text)
}

func exists(selector string) string {
	return fmt.Sprintf("document.querySelector(%q) !== null", selector)
}

// fill gives a field a value as if it were typed at once.
func fill(selector, value string) chromedp.Action {
	return chromedp.Evaluate(fmt.Sprintf(`{ const box = document.querySelector(%q); box.value = %q;
		for (const type of ["input", "change"]) box.dispatchEvent(new Event(type, {bubbles: true})); }`, selector, value), nil)
}

func click(selector string) chromedp.Action { return chromedp.Click(selector, chromedp.ByQuery) }

// shell runs a line as a person would who pasted it, and wants JSON.
func shell(t *testing.T, line string, env ...string) (answer struct{ Connections int }) {
	t.Helper()
	command := exec.Command("sh", "-c", line)
	command.Env = append(os.Environ(), env...)
	out, err := command.CombinedOutput()
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return answer
}

func TestBrowserConsole(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	url := startHub(t, "REALTIME_PRESENCE_TICK=50ms", "REALTIME_PRESENCE_GRACE=200ms", "REALTIME_HISTORY_EVENTS=3")
	page, _ := tab(t, ctx, url+"/")
	live := func(names ...string) {
		t.Helper()
		for _, name := range names {
			becomes(t, page, exists(inPane(name, `[data-state="live"]`)))
		}
	}
	live("alice", "bob")
	becomes(t, page, contains(inPane("alice", ".unspoken"), "since you came"))
	status := func(name, status string) string {
		return exists(fmt.Sprintf(`#presence [data-profile="user:%s"][data-status="%s"]`, name, status))
	}
	becomes(t, page, status("alice", "online"))
	becomes(t, page, status("bob", "online"))
	// Both are members before anybody types.
	becomes(t, page, `fetch("/v1/tenants/demo/conversations/lobby/members").then(r => r.json()).then(r => r.members.length === 2)`)

	t.Run("words", func(t *testing.T) {
		// What can be pressed does not look as if it could not, and each figure says what it is.
		becomes(t, page, `[...document.querySelectorAll("button:enabled")].every((button) => getComputedStyle(button).color !== getComputedStyle(document.querySelector(".meta")).color)`)
		becomes(t, page, `document.querySelectorAll("#graphs > div").length === 3 && [...document.querySelectorAll(".facts > div, #graphs > div")].every(({title}) => title.length > 20)`)
	})

	t.Run("talk", func(t *testing.T) {
		const markup = "<img src=x onerror=alert(1)>"
		do(t, page, chromedp.SendKeys(inPane("bob", ".message"), markup, chromedp.ByQuery))
		becomes(t, page, contains(inPane("alice", ".typing"), "bob is typing"))
		do(t, page, click(inPane("bob", ".say")))
		for _, name := range []string{"alice", "bob"} {
			becomes(t, page, contains(inPane(name, ".messages"), markup))
		}
		becomes(t, page, textOf(inPane("alice", ".typing"))+` === ""`)
		becomes(t, page, `document.querySelector("#panes img") === null`) // text, not markup
	})

	// A list that shrinks moves its end away from who was there, and who scrolls up stays.
	t.Run("the end in sight", func(t *testing.T) {
		list := fmt.Sprintf("document.querySelector(%q)", inPane("alice", ".messages"))
		atEnd := fmt.Sprintf("(%[1]s.scrollHeight - %[1]s.scrollTop - %[1]s.clientHeight < 2)", list)
		fits := fmt.Sprintf("%[1]s.scrollHeight <= %[1]s.clientHeight", list)
		say := func(from, to int) {
			t.Helper()
			for n := from; n <= to; n++ {
				event := fmt.Sprintf(`{"tenantId":"demo","type":"message.received","payload":{"from":"bob","text":"line %d"},"target":{"kind":"conversation","conversationId":"lobby"}}`, n)
				response, err := http.Post(url+"/v1/events", "application/json", strings.NewReader(event))
				if err != nil || response.StatusCode != http.StatusAccepted {
					t.Fatal(response, err)
				}
				response.Body.Close()
			}
			becomes(t, page, contains(inPane("alice", ".messages"), fmt.Sprintf("line %d", to)))
		}
		say(1, 12)
		becomes(t, page, "!("+fits+") && "+atEnd)
		do(t, page, chromedp.Evaluate(fmt.Sprintf(`%s.style.flex = "0 0 60px"; 0`, list), nil))
		becomes(t, page, list+".clientHeight <= 60 && "+atEnd)
		say(13, 13)
		becomes(t, page, atEnd)
		do(t, page, chromedp.Evaluate(list+`.scrollTop = 0`, nil))
		say(14, 14)
		becomes(t, page, list+".scrollTop === 0")
		do(t, page, chromedp.Evaluate(fmt.Sprintf(`%[1]s.style.flex = ""; %[1]s.scrollTop = 1e6; 0`, list), nil))
		say(15, 15)
		becomes(t, page, atEnd)
	})

	t.Run("publish", func(t *testing.T) {
		do(t, page, fill("#target-kind", "profile"), fill("#target-value", "user:bob"), fill("#type", "post.created"), fill("#payload", `{"n":1}`), click("#send"))
		becomes(t, page, contains("#receipt", "1 connection"))
		becomes(t, page, exists(inPane("bob", `.events [data-type="post.created"]`)))
		becomes(t, page, "!("+exists(inPane("alice", `.events [data-type="post.created"]`))+")")

		// With a deadline, which goes with profiles, and is what the page acknowledges.
		acks := `performance.getEntriesByType("resource").filter(({name}) => name.includes("/ack")).length`
		do(t, page, fill("#type", "post.updated"), click("#options summary"), fill("#deadline", "30s"), click("#offline"))
		becomes(t, page, contains("#curl", `"deadline":"30s","offline":"report"`)+` && `+acks+` === 0`)
		do(t, page, click("#send"))
		becomes(t, page, exists(inPane("bob", `.events [data-type="post.updated"]`))+` && `+acks+` === 1`)
		do(t, page, fill("#deadline", ""), click("#offline"), click("#options summary"))
	})

	// Each kind of target, run as the line that the page shows for it.
	t.Run("curl", func(t *testing.T) {
		is := is.New(t)
		needs(t, "curl")
		do(t, page, chromedp.ActionFunc(func(ctx context.Context) error {
			return cdpbrowser.GrantPermissions([]cdpbrowser.PermissionType{cdpbrowser.PermissionTypeClipboardReadWrite, cdpbrowser.PermissionTypeClipboardSanitizedWrite}).
				Do(cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser))
		}), emulation.SetFocusEmulationEnabled(true))
		var connection string
		do(t, page, chromedp.Evaluate(textOf(inPane("alice", ".connection")), &connection))
		becomes(t, page, `fetch("/v1/tenants/demo/groups/staff/members/user:bob", {method: "PUT"}).then(r => r.ok)`)
		payload := `{"n":12345678901234567890,"text":"it's $HOME \"quoted\" \\ ` + "`id`" + ` ü ! "}`
		for i, test := range []struct {
			kind, value, exclude string
			reaches              int
			who                  string
		}{
			{"tenant", "", "", 2, "bob"},
			{"profile", "bob", "", 1, "bob"},
			{"profiles", "alice, bob", "", 2, "alice"},
			{"conversation", "lobby", "", 2, "alice"},
			{"group", "staff", "", 1, "bob"},
			{"connection", connection, "", 1, "alice"},
			{"tenant", "", "user:alice", 1, "bob"},
		} {
			kind := fmt.Sprintf("shell.n%d", i)
			do(t, page, fill("#target-kind", test.kind), fill("#target-value", test.value), fill("#type", kind),
				fill("#exclude-profiles", test.exclude), fill("#payload", "  "+payload+"\n"), click("#copy"))
			becomes(t, page, contains("#copied", "Copied"))
			var line string
			do(t, page, chromedp.Evaluate(`navigator.clipboard.readText()`, &line, awaited))
			is.True(!strings.Contains(line, "Authorization"))  // in open mode there is none
			is.Equal(shell(t, line).Connections, test.reaches) // test.kind
			arrived := inPane(test.who, `.events [data-type="`+kind+`"] .payload`)
			becomes(t, page, exists(arrived))
			var got string
			do(t, page, chromedp.Evaluate(textOf(arrived), &got))
			is.True(strings.Contains(got, `"text":"it's $HOME \"quoted\" \\ `+"`id`"+` ü ! "`))
		}
		// Where the clipboard is refused, the line is at least selected.
		do(t, page, chromedp.Evaluate(`navigator.clipboard.writeText = () => Promise.reject(new Error("no")); 0`, nil), click("#copy"))
		becomes(t, page, `getSelection().toString() === document.querySelector("#curl").textContent && `+contains("#copied", "Selected"))

		do(t, page, fill("#payload", `{"n":`))
		becomes(t, page, `document.querySelector("#copy").disabled && document.querySelector("#payload-error").textContent !== ""`)
		becomes(t, page, textOf("#receipt")+` === ""`) // it was of another payload
		do(t, page, fill("#payload", `{"n":1}`), fill("#exclude-profiles", ""), fill("#target-kind", "tenant"))
	})

	t.Run("kick", func(t *testing.T) {
		row := `#rows [data-profile="user:bob"]`
		do(t, page, chromedp.ScrollIntoView("#connections", chromedp.ByQuery))
		becomes(t, page, `document.querySelectorAll("#rows tr").length === 2`)
		do(t, page, click(row+" .kick"))
		becomes(t, page, exists(inPane("bob", `[data-state="displaced"]`))+" && "+contains(inPane("bob", ".detail"), "told to close"))
		becomes(t, page, exists(inPane("bob", `.events [data-type="hub.closing"]`)))
		do(t, page, click(inPane("bob", ".name"))) // somebody is there
		live("bob")
		becomes(t, page, textOf(inPane("bob", ".resume"))+` === "complete" && `+textOf(inPane("bob", ".reconnects"))+` === "1"`)
	})

	t.Run("cut and gap", func(t *testing.T) {
		says := strings.Join([]string{
			exists(inPane("alice", `[data-state="displaced"]`)), contains(inPane("alice", ".countdown"), "back in"), textOf(inPane("alice", ".status")) + ` === "cut"`,
			contains(inPane("alice", ".detail"), "Cut by you"), contains(inPane("alice", `.events [data-type="hub.closing"] .payload`), "Cut by you"),
		}, " && ")
		events := strings.Repeat(`{"tenantId":"demo","type":"a.b","payload":1,"target":{"kind":"tenant"}},`, 5)
		var status int
		do(t, page, chromedp.Evaluate(fmt.Sprintf(`(async () => { // the page does all of it, since it is back after three seconds
			document.querySelector(%q).click();
			for (const begun = Date.now(); !(%s); await new Promise((done) => setTimeout(done, 20)))
				if (Date.now() - begun > 60_000) throw new Error("it is not said to be cut");
			return (await fetch("/v1/events/batch", {method: "POST", headers: {"Content-Type": "application/json"}, body: %q})).status;
		})()`, inPane("alice", ".cut"), says, `{"events":[`+strings.TrimSuffix(events, ",")+`]}`), &status, awaited))
		is.New(t).Equal(status, http.StatusAccepted)
		live("alice")
		becomes(t, page, exists(inPane("alice", ".events .gap"))+" && "+exists(inPane("alice", ".messages .gap")))
		becomes(t, page, contains(inPane("alice", ".events .gap"), "no longer reaches back")+" && "+contains(inPane("alice", ".detail"), "missed for good"))
		becomes(t, page, textOf(inPane("alice", ".resume"))+` === "partial" && `+textOf(inPane("alice", ".gaps"))+` === "1"`)
		becomes(t, page, `document.querySelectorAll('`+inPane("alice", `.events [data-type="a.b"]`)+`').length === 3`) // what the history still had
		becomes(t, page, textOf(inPane("bob", ".gaps"))+` === "0"`)
	})

	// A second tab costs no stream, and hears the same.
	t.Run("tabs", func(t *testing.T) {
		var twin string
		do(t, page, chromedp.Evaluate(`document.querySelector("#twin").href`, &twin))
		second, closeTab := tab(t, ctx, twin)
		becomes(t, second, textOf(inPane("alice", ".shared"))+` === "follower"`)
		do(t, page, chromedp.SendKeys(inPane("alice", ".message"), "to all tabs\r", chromedp.ByQuery))
		becomes(t, second, contains(inPane("bob", ".messages"), "to all tabs"))
		becomes(t, second, `fetch("/v1/tenants/demo/connections").then(r => r.json()).then(r => r.count === 2)`)
		closeTab()
	})

	t.Run("panes", func(t *testing.T) {
		do(t, page, click("#add"))
		live("carol")
		becomes(t, page, contains(inPane("carol", ".name"), "carol")+` && document.querySelector("#most").hidden`)
		do(t, page, click("#add"))
		live("dan")
		do(t, page, chromedp.EmulateViewport(1400, 1000)) // two rows, whose conversations have room for two messages
		becomes(t, page, `[...document.querySelectorAll(".messages, .talk .empty")].filter(({clientHeight}) => clientHeight > 0).every(({clientHeight}) => clientHeight >= 120)`)
		do(t, page, emulation.ClearDeviceMetricsOverride())
		becomes(t, page, `document.querySelector("#add").disabled && !document.querySelector("#most").hidden`)
		do(t, page, click(inPane("bob", ".remove")))
		becomes(t, page, status("bob", "offline"))
		do(t, page, click(inPane("carol", ".disconnect")))
		becomes(t, page, status("carol", "offline"))
		becomes(t, page, exists(inPane("carol", `[data-state="closed"]`)))
		do(t, page, click(inPane("carol", ".connect")))
		live("carol")
	})

	t.Run("quantile", func(t *testing.T) {
		// Of 100 values 90 up to 1, 8 up to 2, one up to 4, one above: by hand, as Prometheus' histogram_quantile has it.
		for _, test := range []struct{ buckets, want string }{
			{"[1, 90], [2, 98], [4, 99], [Infinity, 100]", "4"},
			{"[1, 0], [2, 100], [Infinity, 100]", "1.99"},
			{"[4, 100], [2, 50], [Infinity, 100]", "3.96"},
			{"[1, 50], [Infinity, 100]", "1"},
			{"[1, 0], [Infinity, 0]", "NaN"},
			{"", "NaN"},
		} {
			becomes(t, page, `import("/graph.js").then(({quantile}) => String(quantile(0.99, new Map([`+test.buckets+`]))) === "`+test.want+`")`)
		}
	})

	t.Run("graph", func(t *testing.T) {
		do(t, page, chromedp.ScrollIntoView("#live", chromedp.ByQuery))
		becomes(t, page, textOf(`[data-graph="streams"]`)+` === "3"`)
		becomes(t, page, `fetch("/v1/tenants/demo/events", {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"type":"a.b","payload":1}'})
			.then(() => /s$/.test(document.querySelector('[data-graph="latency"]').textContent) && document.querySelector("#live svg path:not(.area)").getAttribute("d").length > 10)`)
	})
}

// With credentials on the console keeps them in memory: none gets into an address,
// a storage, or the page itself.
func TestBrowserConsoleCredentials(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	is := is.New(t)
	url := startHub(t, "REALTIME_PRESENCE_TICK=50ms", "REALTIME_JWT_SECRET="+testSecret, "REALTIME_API_KEYS=t1=service-key-0001")
	console, _ := chromedp.NewContext(ctx) // its first call is refused, which a browser logs as an error
	t.Cleanup(func() { chromedp.Cancel(console) })
	do(t, console, chromedp.Navigate(url+"/"))
	becomes(t, console, exists(".pane:nth-child(2) .token")+` && !document.querySelector("#service").hidden`)
	becomes(t, console, textOf("#people-count")+` === "" && `+contains("#people-note", "not known")+` && `+textOf(".unspoken")+` === "" && getComputedStyle(document.querySelector("#live ~ .people .empty")).display === "none"`)
	for panel, says := range map[string]string{"live": "bound to *", "connections": "service credential"} {
		do(t, console, chromedp.ScrollIntoView("#"+panel, chromedp.ByQuery))
		becomes(t, console, contains("#"+panel+"-note", says))
	}
	do(t, console, chromedp.SendKeys(".pane:nth-child(2) .token", "not.a.token\r", chromedp.ByQuery))
	becomes(t, console, exists(`.pane:nth-child(2).refused [data-state="closed"]`)+" && "+contains(".pane:nth-child(2) .detail", "401"))

	secret := strings.TrimPrefix(bearer(t, "tenant", "t1", "sub", "user:carol", "scope", "subscribe"), "Bearer ")
	do(t, console, chromedp.SendKeys(".token", secret+"\r", chromedp.ByQuery))
	becomes(t, console, exists(inPane("carol", `[data-state="live"]`)))
	becomes(t, console, `document.querySelector("#tenant").value === "t1"`)
	becomes(t, console, contains(inPane("carol", ".note"), "service credential"))
	do(t, console, click("#send"))
	becomes(t, console, contains("#receipt", "credential"))

	do(t, console, chromedp.SendKeys("#credential", "service-key-0001\r", chromedp.ByQuery))
	becomes(t, console, exists(`#presence [data-profile="user:carol"][data-status="online"]`))
	becomes(t, console, textOf(inPane("carol", ".note"))+` === ""`) // it has joined
	do(t, console, chromedp.ScrollIntoView("#live", chromedp.ByQuery))
	becomes(t, console, contains("#live-note", "403"))
	do(t, console, fill("#type", "hub.mine"), click("#send"))
	becomes(t, console, contains("#receipt", "ReservedType")+` && document.querySelector("#type").ariaInvalid === "true"`)
	do(t, console, fill("#type", "post.created"), fill("#deadline", "soon"))
	becomes(t, console, `document.querySelector("#type").ariaInvalid === "false"`) // not blamed for what it no longer says
	do(t, console, click("#send"))
	becomes(t, console, contains("#receipt", "deadline")+` && document.querySelector("#options").open && document.querySelector("#deadline").ariaInvalid === "true"`)
	do(t, console, fill("#deadline", ""), click("#send"))
	becomes(t, console, exists(inPane("carol", `.events [data-type="post.created"]`)))
	do(t, console, chromedp.SendKeys(inPane("carol", ".message"), "hello\r", chromedp.ByQuery))
	becomes(t, console, contains(inPane("carol", ".messages"), "hello"))
	do(t, console, chromedp.ScrollIntoView("#connections", chromedp.ByQuery), click(`#rows [data-profile="user:carol"] .kick`))
	becomes(t, console, exists(inPane("carol", `[data-state="displaced"]`)))
	do(t, console, click(inPane("carol", ".name")))
	becomes(t, console, exists(inPane("carol", `[data-state="live"]`)))

	var line string
	do(t, console, fill("#type", "shell.run"), chromedp.Evaluate(textOf("#curl"), &line))
	if _, err := exec.LookPath("curl"); err == nil {
		is.Equal(shell(t, line, "KEY=service-key-0001").Connections, 1)
		becomes(t, console, exists(inPane("carol", `.events [data-type="shell.run"]`)))
	}

	// Where a credential must not be. Names of locks are seen by other pages of the origin.
	var addresses, elsewhere string
	do(t, console, chromedp.Evaluate(`[location.href, ...performance.getEntries().map(e => e.name), ...[...document.links].map(a => a.href), document.referrer].join("\n")`, &addresses))
	do(t, console, chromedp.Evaluate(`navigator.locks.query().then((locks) => JSON.stringify([locks, localStorage, sessionStorage, document.cookie, document.title,
		document.documentElement.outerHTML, ...[...document.querySelectorAll("input, textarea")].map((box) => box.value)]))`, &elsewhere, awaited))
	is.True(strings.Contains(addresses, "/v1/stream"))        // it lists them
	is.True(strings.Contains(elsewhere, `"name":"realtime `)) // and the locks
	is.True(strings.Contains(line, `"Authorization: Bearer $KEY"`))
	for _, hidden := range []string{secret, strings.Split(secret, ".")[2], "service-key-0001", "not.a.token"} {
		is.True(!strings.Contains(addresses+elsewhere+line, hidden)) // in no address, no storage, nowhere in the page
	}
	is.True(!strings.Contains(addresses, "access_token="))

	do(t, console, click(inPane("carol", ".disconnect")), chromedp.ScrollIntoView("#presence", chromedp.ByQuery))
	becomes(t, console, textOf("#people-count")+` === "0 online"`) // with no stream to hear it from
}
