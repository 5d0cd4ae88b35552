package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// receipt is an expression: the newest event published in the console has a receipt of a profile, which says this.
func receipt(profile, state, why string) string {
	row := fmt.Sprintf(`.receipts[open] .rows [data-profile="user:%s"][data-state="%s"]`, profile, state)
	return contains(row, why)
}

// asksOfReceipts is an expression: how often a page has asked what came of its events.
const asksOfReceipts = `performance.getEntriesByType("resource").filter(({name}) => name.includes("/receipts")).length`

// publishTo publishes from the console to some profiles, with a deadline or without one.
func publishTo(deadline string, profiles ...string) chromedp.Tasks {
	return chromedp.Tasks{fill("#target-kind", "profiles"), fill("#target-value", strings.Join(profiles, ",")), fill("#deadline", deadline), click("#send")}
}

// why asks of the newest event why somebody did not get it.
func why(profile string) chromedp.Tasks {
	return chromedp.Tasks{fill(".receipts[open] .whom", profile), click(".receipts[open] .ask button")}
}

const because = ".receipts[open] .because"

// Of two who are to acknowledge an event the one who does not is reported at its deadline.
func TestConsoleReceipts(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	ctx := browser(t)
	h := hubtest.Start(t, "REALTIME_PRESENCE_TICK=50ms")
	h.Open(t, "tenant=demo&profile=bob") // handles nothing
	page, _ := tab(t, ctx, h.URL+"/?profile=alice")
	becomes(t, page, exists(inPane("alice", `[data-state="live"]`)))

	do(t, page, publishTo("20s", "alice", "bob", "carol"))
	becomes(t, page, receipt("bob", "sent", "was sent it, and has not acknowledged it"))
	becomes(t, page, receipt("carol", "owed", "no connection"))
	becomes(t, page, receipt("alice", "acknowledged", ""))
	becomes(t, page, textOf(".receipts[open] .news")+` === "1 acknowledged, 2 not yet" && `+contains(".receipts[open] .rows", "not yet")+` && `+contains(".receipts[open] .until", "Reported if not")+` && document.querySelector(".again").hidden`)
	do(t, page, why("dave"))
	becomes(t, page, contains(because, "dave has not got it. It was for others."))
	becomes(t, page, receipt("bob", "reported", "was sent it, and has not acknowledged it"))
	becomes(t, page, receipt("carol", "reported", "no connection"))
	becomes(t, page, textOf(".receipts[open] .news")+` === "1 acknowledged, 2 reported" && `+contains(".receipts[open] .until", "The deadline was")+` && !document.querySelector(".again").hidden`)
	do(t, page, why("bob"))
	becomes(t, page, contains(because, "bob did not acknowledge it by its deadline, and was reported"))
	var asked int
	do(t, page, chromedp.Evaluate(asksOfReceipts, &asked))
	is.True(asked < 16) // less and less while nothing is new: at 0, 0.5, 1.5, 3.5, 7.5 and 15.5 s, and as the deadline is over; every 0.5 s would be 43

	// Nobody has to acknowledge an event without a deadline. It asks no more of the one before, which is closed.
	do(t, page, publishTo("", "alice", "carol"))
	becomes(t, page, receipt("alice", "sent", "")+" && "+receipt("carol", "owed", "no connection"))
	becomes(t, page, `document.querySelectorAll(".receipts[open]").length === 1 && `+contains(".receipts:not([open]) .counts", "2 reported"))

	// It shows a page of the receipts.
	many := make([]string, 45)
	for i := range many {
		many[i] = fmt.Sprintf("p%02d", i)
	}
	do(t, page, publishTo("1h", many...))
	rows := `[...document.querySelectorAll(".receipts[open] .rows li")].map(({dataset}) => dataset.profile)`
	becomes(t, page, rows+`.length === 20 && `+textOf(".receipts[open] .news")+` === "45 not yet"`)
	do(t, page, click(".receipts[open] .following"))
	becomes(t, page, rows+`[0] === "user:p20"`)
	do(t, page, click(".receipts[open] .following"))
	becomes(t, page, rows+`.join() === "user:p40,user:p41,user:p42,user:p43,user:p44" && document.querySelector(".receipts[open] .following").hidden`)
	do(t, page, click(".receipts[open] .first"))
	becomes(t, page, rows+`[0] === "user:p00"`)

	// A page that is hidden asks nothing.
	hide := func(hidden bool) chromedp.Action {
		return chromedp.Evaluate(fmt.Sprintf(`Object.defineProperty(document, "hidden", {value: %v, configurable: true}); document.dispatchEvent(new Event("visibilitychange")); 0`, hidden), nil)
	}
	do(t, page, hide(true), fill("#type", "while.hidden"), publishTo("1h", "carol"))
	becomes(t, page, contains(".receipts[open] .type", "while.hidden"))
	becomes(t, page, `fetch("/readyz").then(() => fetch("/readyz")).then(() => fetch("/readyz")).then(() => true)`)
	becomes(t, page, textOf(".receipts[open] .until")+` === ""`)
	do(t, page, hide(false))
	becomes(t, page, receipt("carol", "owed", "no connection"))

	// Where they would be below the end of the window they come into sight.
	do(t, page, chromedp.EmulateViewport(1400, 1000), click("#options summary"), chromedp.EmulateViewport(1400, 700))
	do(t, page, chromedp.Evaluate(`scrollTo(0, 0); document.querySelector("#payload").focus({preventScroll: true}); 0`, nil), fill("#type", "out.of.sight"), fill("#target-value", "carol"),
		chromedp.Evaluate(`document.querySelector("#publish").requestSubmit()`, nil))
	becomes(t, page, contains(".receipts[open] .type", "out.of.sight")+" && "+receipt("carol", "owed", "no connection"))
	do(t, page, chromedp.EmulateViewport(1400, 1000), click("#options summary"))

	// It keeps ten events, and none of which nothing is kept.
	do(t, page, click("#ephemeral"), publishTo("", "alice"))
	becomes(t, page, contains("#receipt", "reached 1 connection"))
	becomes(t, page, `document.querySelectorAll(".receipts").length === 5`)
	do(t, page, click("#ephemeral"))
	for i := range 8 {
		do(t, page, fill("#type", fmt.Sprintf("n.n%d", i)), click("#send"))
		becomes(t, page, contains(".receipts[open] .type", fmt.Sprintf("n.n%d", i)))
	}
	becomes(t, page, `document.querySelectorAll(".receipts").length === 10`)
}

// It is the service's credential that sees receipts, by its scope; a refusal is told.
func TestConsoleReceiptsCredentials(t *testing.T) {
	t.Parallel()
	ctx := browser(t)
	h := hubtest.Start(t, "REALTIME_JWT_SECRET="+testSecret)
	token := func(scope string) string {
		return strings.TrimPrefix(bearer(t, "tenant", "demo", "sub", "user:service", "scope", scope), "Bearer ")
	}
	page, _ := chromedp.NewContext(ctx) // its first call is refused, which a browser logs as an error
	t.Cleanup(func() { chromedp.Cancel(page) })
	do(t, page, chromedp.Navigate(h.URL+"/"))
	use := func(token string) {
		t.Helper()
		do(t, page, chromedp.SendKeys("#credential", token+"\r", chromedp.ByQuery), chromedp.ScrollIntoView("#send", chromedp.ByQuery))
	}
	becomes(t, page, `!document.querySelector("#service").hidden`)
	use(token("publish"))
	do(t, page, publishTo("1h", "bob"))
	becomes(t, page, receipt("bob", "owed", "no connection"))
	trouble := ".receipts[open] .trouble"
	becomes(t, page, textOf(trouble)+` === ""`)

	use(token("subscribe"))
	becomes(t, page, contains(trouble, "403")+" && "+contains(trouble, "scope publish")+` && !document.querySelector(".again").hidden`)
	do(t, page, why("bob"))
	becomes(t, page, contains(because, "403"))

	do(t, page, click("#forget"), chromedp.ScrollIntoView("#send", chromedp.ByQuery))
	becomes(t, page, contains(trouble, "paste the service credential"))

	use(token("admin"))
	becomes(t, page, textOf(trouble)+` === ""`)
	do(t, page, why("bob:"))
	becomes(t, page, contains(because, "400"))
}
