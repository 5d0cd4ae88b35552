package doctor

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Severity says what a finding means.
type Severity string

// From good to bad.
const (
	Fine    Severity = "fine"
	Note    Severity = "note"    // worth knowing; streams work
	Trouble Severity = "trouble" // streams suffer
	Failed  Severity = "failed"  // nothing could be found out
)

// Finding is one thing that was found, in words; Code is for programs.
type Finding struct {
	Door     Door     `json:"door"`
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Says     string   `json:"says"`
	Advice   []Advice `json:"advice,omitempty"`
}

// judge tells what was found of Server-Sent Events, the worst first.
func judge(o observed) []Finding {
	var found []Finding
	add := func(code string, severity Severity, format string, args ...any) {
		found = append(found, Finding{Door: SSE, Code: code, Severity: severity, Says: fmt.Sprintf(format, args...)})
	}
	held := o.flow(add)
	o.cuts(add, held)
	o.leaving(add)
	o.way(add, held)
	o.room(add)
	o.head(add, held)
	known, hidden := o.proxies(), !o.proxied()
	for i := range found {
		f := &found[i]
		if f.Severity != Fine && !(f.Code == "idle-cut" && f.Severity == Note) { // which is as it should be
			f.Advice = adviceFor(SSE, f.Code, known)
			if hidden && mayBeTheHub[f.Code] {
				f.Says += " Nothing showed itself on the way, so it may be the hub."
				f.Advice = slices.Insert(f.Advice, 0, Advice{hub, false, "run the doctor beside it, at its own address. If it is the same there, no proxy does it."})
			}
		}
	}
	sortFindings(found)
	return found
}

// sortFindings has the worst first.
func sortFindings(found []Finding) {
	rank := map[Severity]int{Failed: 0, Trouble: 1, Note: 2, Fine: 3}
	slices.SortStableFunc(found, func(a, b Finding) int { return rank[a.Severity] - rank[b.Severity] })
}

// mayBeTheHub is what a hub would do that has a fault, and a proxy that hides.
var mayBeTheHub = map[string]bool{"buffered": true, "stalled": true, "idle-cut": true, "vanished": true, "total-cut": true, "leave-late": true}

type addFunc func(code string, severity Severity, format string, args ...any)

// Of what counts as held back.
const (
	leastLag    = 500 * time.Millisecond
	hiccup      = 2 * time.Second
	slowFirst   = time.Second
	enoughTicks = 4
)

// flow says whether ticks came as they were sent, and whether they were held back.
func (o *observed) flow(add addFunc) (held bool) {
	t := &o.ticking
	if t.status != 0 && !t.opened() {
		add("refused", Trouble, "The ticking probe was answered %d, although a first short one was taken.", t.status)
		return false
	}
	lag, clumped, bursts := t.clumps()
	gaps := len(t.arrivals) - 1
	due := max(2*o.every, leastLag)
	switch {
	case len(t.arrivals) == 0 && t.lived >= due:
		add("buffered", Trouble, "Nothing came for %s: something on the way keeps the whole answer back.", seconds(t.lived))
		return true
	case lag >= due && clumped*4 >= gaps:
		add("buffered", Trouble, "Events do not come when they are sent: %d came in %s, held back for up to %s (%s came in all). Something on the way collects them.",
			gaps, count(bursts, "burst"), seconds(lag), size(t.bytes))
		return true
	case gaps < enoughTicks:
		return false
	case o.kept():
		add("buffered", Trouble, "The only event of a silent stream did not come until its end, after %s: something on the way keeps an event until more comes.", seconds(o.silent.lived))
	case t.expired:
		add("stalled", Trouble, "The stream stood still: the last event came after %s, and its connection stayed open as if nothing had happened.", seconds(t.arrivals[gaps].came))
	case lag >= hiccup:
		add("hiccup", Note, "Events come at once, but for one moment: they stood still for %s. A network does that; if it does so often, look there.", seconds(lag))
	default:
		add("immediate", Fine, "Events come when they are sent: %d, none more than %s late.", gaps, millis(lag))
	}
	return false
}

// cuts tells streams that are cut for their silence from those cut for their age, and
// both from a moment at which all was cut.
func (o *observed) cuts(add addFunc, held bool) {
	ticking, silent := &o.ticking, o.silentCut()
	for _, t := range []*trial{ticking, silent} {
		if t.closing != "" {
			add("hub-ended", Failed, "The hub itself ended a probe after %s, for the reason %q: what comes later was not seen.", seconds(t.lived), t.closing)
		}
	}
	if silent.status != 0 && !silent.opened() {
		add("refused", Trouble, "The silent probe was answered %d after %s, although a first short one was taken.", silent.status, seconds(silent.lived))
		return
	}
	if how := o.told(silent.hello).How; silent.cut() && (how == Vanished || how == GivenUp) {
		why := "the other end of its connection no longer answered at TCP's level: packets are lost between the two, or nobody is there"
		if how == GivenUp {
			why = "for a limit of its own, which its log names"
		}
		add("hub-cut", Trouble, "The hub gave up a silent stream after %s: %s. No proxy's limit did it.", seconds(silent.lived), why)
		return
	}
	tolerance := o.stagger / 3
	lives, ends := (silent.lived - ticking.lived).Abs(), silent.ended().Sub(ticking.ended()).Abs()
	near := lives <= o.stagger+2*tolerance
	heartbeat := o.heartbeat()
	switch {
	case ticking.cut() && silent.cut() && near && ends < tolerance && lives > tolerance:
		add("cut", Trouble, "Both probes were cut at the same moment, after %s: a proxy was restarted or reloaded, or the network changed. Run the doctor again.", seconds(ticking.lived))
		return
	case ticking.cut() && silent.cut() && near:
		add("total-cut", Trouble, "Streams are cut after %s, used or not: the silent one and the ticking one had the same time. Clients come back and miss nothing, but all of them, each time.", seconds(ticking.lived))
		return
	case ticking.cut():
		add("total-cut", Trouble, "A stream was cut after %s although events were flowing. Clients come back and miss nothing, but all of them, each time.", seconds(ticking.lived))
	case ticking.done:
		add("lived", Fine, "A stream with events lived its whole %s.", seconds(o.lasts))
	}
	// A limit that is looked at with a write only, or a connection that was forgotten,
	// shows when the silence is over.
	late := silent.cut() && silent.lived >= o.lasts-tolerance
	if late && ticking.cut() {
		return // the same limit
	}
	silence := silent.lived
	if !held && len(silent.arrivals) > 0 {
		silence -= silent.arrivals[0].came
	}
	switch {
	case late, silent.expired && ticking.done:
		add("vanished", Trouble, "After a silence of %s nothing came through any more: something on the way forgot the connection, without a word to either side.", seconds(o.lasts))
	case silent.cut() && heartbeat == 0:
		add("idle-cut", Trouble, "A silent stream is cut after %s, and the hub sends no heartbeats (REALTIME_HEARTBEAT=0): a quiet stream does not live.", seconds(silence))
	case silent.cut() && silence < heartbeat+margin:
		add("idle-cut", Trouble, "A silent stream is cut after %s, while one with events lives on. The hub breaks a silence after %s at the latest, which is too late.", seconds(silence), seconds(heartbeat))
	case silent.cut():
		add("idle-cut", Note, "A silent stream is cut after %s. The hub breaks a silence after %s at the latest, so streams live.", seconds(silence), seconds(heartbeat))
	case silent.done && heartbeat > 0 && o.lasts < heartbeat:
		add("unproven", Note, "A silent stream lived its whole %s, but the hub may be silent for %s. Run the doctor with -for %s.", seconds(o.lasts), seconds(heartbeat), (2 * heartbeat).Round(time.Second))
	case silent.done && heartbeat == 0:
		add("unproven", Note, "A silent stream lived its whole %s. The hub sends no heartbeats (REALTIME_HEARTBEAT=0), so streams may be silent for longer.", seconds(o.lasts))
	case silent.done:
		add("idle-survived", Fine, "A silent stream lived its whole %s; the hub breaks a silence after %s at the latest.", seconds(o.lasts), seconds(heartbeat))
	}
}

// leaveLate is when a departure is noticed too late; presence has a grace of 5 s.
const leaveLate = 3 * time.Second

// leaving is about when the hub noticed that a client closed its stream.
func (o *observed) leaving(add addFunc) {
	const means = "People stay online so long after they have left, and their streams count."
	ticking := &o.ticking
	switch {
	case o.left == nil || ticking.hello == nil:
	case !o.left.hello.Tells:
		add("leave-unknown", Note, "Whether the hub notices at once who leaves was not to be seen: the streams met different hubs.")
	case o.told(o.left.hello).ID != "":
		// The hub's time of the closing, by ours and the event that came fastest.
		closed := o.left.ended().Sub(ticking.asked) - ticking.fastest()
		late := max(time.Duration(o.told(o.left.hello).ElapsedMS)*time.Millisecond-closed, 0)
		if late < leaveLate {
			add("leave-noticed", Fine, "The hub noticed after %s that a client closed its stream.", millis(late))
			return
		}
		add("leave-late", Trouble, "The hub noticed only after %s that a client closed its stream. %s", seconds(late), means)
	case ticking.done:
		add("leave-late", Trouble, "The hub had not noticed after %s that a client closed its stream. %s It will when a heartbeat cannot be written, if the way passes that on.", seconds(ticking.lived-o.left.ended().Sub(ticking.asked)), means)
	}
}

// fewStreams is less than what HTTP/2 recommends (RFC 9113, 6.5.2).
const fewStreams = 100

// room is how many streams a browser may have at once.
func (o *observed) room(add addFunc) {
	if n := o.best().streams; n > 0 && n < fewStreams {
		add("h2-streams", Note, "An HTTP/2 connection takes %s at once here, and a browser opens one connection to a host. Each tab with a stream of its own holds one: in tab %d nothing of this host loads.", count(n, "request"), n+1)
	}
	var began []time.Time // by the hub's clock
	refused := ""
	for _, t := range o.tabs {
		if t.hello == nil {
			if t.busy() {
				return // the hub's limit for doctors: another one is at work
			}
			refused = " (" + t.said() + ")"
			continue
		}
		at, err := time.Parse(time.RFC3339, t.hello.At)
		if err != nil {
			return
		}
		began = append(began, at)
	}
	slices.SortFunc(began, time.Time.Compare)
	open := 0
	for _, at := range began {
		if at.Sub(began[0]) < together {
			open++
		}
	}
	if open < len(o.tabs) {
		add("few-streams", Trouble, "Of %d streams at once, which a browser with HTTP/1.1 may open, only %d came through; the others waited or were refused%s. So many tabs work, the next one does not.", len(o.tabs), open, refused)
	}
}

// margin is for the heartbeat's way.
const margin = time.Second

// way is about the protocols, and the time until the first byte.
func (o *observed) way(add addFunc, held bool) {
	if o.http1 != nil && o.brief.status != http.StatusOK {
		add("http2-failed", Trouble, "With HTTP/2 offered there is no stream (%s); with HTTP/1.1 alone there is.", o.brief.said())
	} else if o.http1 != nil && o.http1.status != http.StatusOK {
		add("http1-failed", Note, "With HTTP/1.1 there is no stream (%s); with HTTP/2 there is. Older clients and tools need it.", o.http1.said())
	}
	best := o.best()
	mine := protocol(best.proto)
	if best.hello != nil {
		how := fmt.Sprintf("%s to the hub, with no sign of a proxy.", mine)
		if o.proxied() {
			how = fmt.Sprintf("%s to the proxy, %s from there to the hub.", mine, protocol(best.hello.Protocol))
		}
		if known := o.proxies(); len(known) > 0 {
			how += " On the way: " + strings.Join(known, ", ") + "."
		}
		add("protocol", Fine, "%s", how)
	}
	if strings.HasPrefix(mine, "HTTP/1") {
		why := "HTTP/2 is not offered."
		if !o.secure {
			why = "Browsers speak HTTP/2 over TLS only."
		}
		add("http1-only", Note, "With HTTP/1.1 a browser opens six connections to a host, in all its tabs together: the seventh stream waits. %s", why)
	}
	if !o.sameHost() {
		add("host", Trouble, "The hub was asked as %q and not as %q: something on the way changes Host. The hub compares it with a page's Origin before it believes a cookie, so cookies are answered 403.", best.hello.Host, o.host)
	}
	first := o.brief.firstByte
	if len(o.brief.arrivals) > 0 {
		first = o.brief.arrivals[0].came
	}
	if held {
		return
	}
	if first >= slowFirst {
		add("slow-first", Note, "The first event took %s to come, after %s for the connection.", seconds(first), millis(o.brief.connected))
	} else if first > 0 {
		add("first", Fine, "The first event came after %s, the connection took %s.", millis(first), millis(o.brief.connected))
	}
}

// head is about what became of the answer's head.
func (o *observed) head(add addFunc, held bool) {
	t := o.best()
	if kind, _, _ := mime.ParseMediaType(t.header.Get("Content-Type")); kind != "text/event-stream" {
		add("content-type", Trouble, "The hub's text/event-stream came as %q: EventSource gives up on it.", t.header.Get("Content-Type"))
	}
	if coding := t.coding(); coding != "" {
		severity, and := Note, "Events come through at once all the same, at the price of memory for each stream."
		if held {
			severity, and = Trouble, "A compressor gathers before it lets go."
		}
		add("compressed", severity, "The stream is compressed on the way (%s). %s", coding, and)
	}
	if cache := strings.ToLower(t.header.Get("Cache-Control")); !strings.Contains(cache, "no-store") || !strings.Contains(cache, "no-transform") {
		add("cache-control", Note, "Cache-Control came as %q instead of \"no-cache, no-store, no-transform\": caches and compressors further on may do what they like.", t.header.Get("Cache-Control"))
	}
	if age := t.header.Get("Age"); age != "" && age != "0" {
		add("cached", Trouble, "The answer came from a cache, %s s old: all clients get the first one's stream.", age)
	}
}

// protocol is a version as people write it.
func protocol(proto string) string { return strings.Replace(proto, "HTTP/2.0", "HTTP/2", 1) }

func seconds(d time.Duration) string {
	if d < 9950*time.Millisecond { // else it is 10.0
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

func millis(d time.Duration) string { return fmt.Sprintf("%d ms", max(d.Milliseconds(), 1)) }

func count(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
