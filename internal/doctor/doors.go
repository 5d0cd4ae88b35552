package doctor

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Door is a way by which clients get their events.
type Door string

// The doors of a hub, the best first.
const (
	SSE       Door = "sse"
	WebSocket Door = "websocket"
	Poll      Door = "poll"
	SignalR   Door = "signalr"
)

const doctorPath = "/v1/doctor" // has what Server-Sent Events have, at a path of its own

// doors are what people call each door, and where it is.
var doors = map[Door]struct{ name, path string }{
	SSE:       {"Server-Sent Events", "/v1/stream"},
	WebSocket: {"WebSocket", "/v1/socket"},
	Poll:      {"long polling", "/v1/poll"},
	SignalR:   {"SignalR", "/signalr"},
}

func doorNames() []string {
	return []string{string(SSE), string(WebSocket), string(Poll), string(SignalR)}
}

// Outlook is what clients of a door have to expect.
type Outlook struct {
	Door    Door     `json:"door"`
	Path    string   `json:"path"`
	Verdict Severity `json:"verdict"`       // fine, trouble or failed
	Why     []string `json:"why,omitempty"` // the codes of the findings that say so
}

// settle tells the doors apart: what troubles those that nobody uses is worth knowing.
func (r *Report) settle(used Door) {
	for _, name := range doorNames() {
		look := Outlook{Door: Door(name), Path: doors[Door(name)].path}
		var of []Finding
		for _, f := range r.Findings {
			if f.Door == look.Door {
				of = append(of, f)
				if f.Severity == Trouble || f.Severity == Failed {
					look.Why = append(look.Why, f.Code)
				}
			}
		}
		look.Verdict = verdict(of)
		r.Doors = append(r.Doors, look)
		if look.Door == used {
			r.Verdict = look.Verdict
		}
	}
	r.Use = r.best()
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Door != used && f.Severity != Fine {
			f.Severity = Note
		}
	}
	sortFindings(r.Findings)
}

// nuisances trouble clients by whatever door they come, or not for lack of events.
var nuisances = map[string]bool{"leave-late": true, "host": true, "few-streams": true}

// best is the door to use: a stream that has no trouble, else one that brings events all the same, else
// polls; empty: none of them works. SignalR's clients choose for themselves.
func (r *Report) best() Door {
	for _, bearable := range []func(Outlook) bool{
		func(o Outlook) bool { return o.Door != Poll && o.Verdict == Fine },
		func(o Outlook) bool {
			return o.Door != Poll && o.Verdict == Trouble && !slices.ContainsFunc(o.Why, func(code string) bool { return !nuisances[code] })
		},
		func(o Outlook) bool { return o.Door == Poll && o.Verdict == Fine },
	} {
		for _, o := range r.Doors {
			if o.Door != SignalR && bearable(o) {
				return o.Door
			}
		}
	}
	return ""
}

// besides is what was tried of the doors beside Server-Sent Events.
type besides struct {
	origin string   // of the pages that open WebSockets
	socket observed // WebSocket
	poll   trial    // that waited for wait
	wait   time.Duration

	negotiated trial // the first request of SignalR's clients
	signalr    trial // a WebSocket there
}

// at is a probe of a door.
func (p probe) at(path string) probe {
	u := *p.url
	u.Path = strings.TrimSuffix(u.Path, doctorPath) + path
	p.url = &u
	return p
}

// usualWait is how long polls wait by default.
const usualWait = 25 * time.Second

// examine asks each door for a short word, and has WebSockets live and a poll wait.
func (b *besides) examine(ctx context.Context, base probe) {
	negotiation := base.at(doors[SignalR].path + "/negotiate")
	negotiation.lasts, negotiation.post = briefly, true
	signalr := base.at(doors[SignalR].path)
	signalr.lasts, signalr.origin = briefly, b.origin
	socket := base.at(doors[WebSocket].path)
	socket.lasts, socket.origin = briefly, b.origin
	var all sync.WaitGroup
	all.Go(func() { b.negotiated = negotiation.run(ctx) })
	all.Go(func() { b.signalr = signalr.run(ctx) })
	all.Go(func() {
		if b.socket.brief = socket.run(ctx); b.socket.brief.hello != nil {
			b.socket.examine(ctx, socket, nil, nil)
		}
	})
	b.wait = min(b.socket.lasts, usualWait)
	poll := base.at(doors[Poll].path)
	poll.lasts = b.wait
	b.poll = poll.run(ctx)
	all.Wait()
}

// judge tells what was found of each door; o is of Server-Sent Events.
func (b *besides) judge(o *observed) (found []Finding) {
	of := func(door Door) addFunc {
		return func(code string, severity Severity, format string, args ...any) {
			says := doors[door].name + ": " + fmt.Sprintf(format, args...)
			found = append(found, Finding{Door: door, Code: code, Severity: severity, Says: says})
		}
	}
	b.judgeSocket(of(WebSocket), o)
	if slices.ContainsFunc(found, func(f Finding) bool { return f.Severity == Trouble || f.Severity == Failed }) {
		found = slices.DeleteFunc(found, func(f Finding) bool { return f.Severity == Fine })
	}
	b.judgePoll(of(Poll))
	b.judgeSignalR(of(SignalR), o)
	for i := range found {
		if f := &found[i]; f.Severity != Fine && !(f.Code == "idle-cut" && f.Severity == Note) {
			f.Advice = adviceFor(f.Door, f.Code, o.proxies())
		}
	}
	return found
}

// What is said of several doors.
const (
	notFound  = "%s 404%s: the proxy sends the path elsewhere, or the hub is older than its doctor."
	takesNone = "the hub takes no probe now%s."
)

// judgeSocket is about WebSocket.
func (b *besides) judgeSocket(add addFunc, o *observed) {
	s := &b.socket
	if s.brief.hello == nil {
		notOpened(add, &s.brief, b.origin, o.http1)
		return
	}
	faults := func(code string, severity Severity, format string, args ...any) {
		if severity != Fine {
			add(code, severity, format, args...)
		}
	}
	held := s.flow(faults)
	s.cuts(faults, held)
	if s.ticking.done && s.silent.done && !held {
		add("works", Fine, "it opens after %s, and lived its whole %s, with events and silent.", millis(s.brief.firstByte), seconds(s.lasts))
	}
}

// notOpened says why there is no WebSocket. http1 is what HTTP/1.1 alone has brought, or nil.
func notOpened(add addFunc, t *trial, origin string, http1 *trial) {
	const taken = " Something on the way takes the header Upgrade away, or knows no WebSocket."
	word := t.problem()
	switch {
	case t.busy():
		add("busy", Failed, takesNone, t.detail())
	case t.status == http.StatusSwitchingProtocols && t.err != errAccept:
		add("buffered", Trouble, "it was opened, but nothing came for %s: something on the way takes the messages and keeps them.", seconds(t.lived))
	case t.status == http.StatusForbidden && strings.Contains(word, "CrossSite"):
		add("origin", Trouble, "pages of %s get none%s. If that is the hub's own address, something on the way changes Host.", origin, t.detail())
	case t.status == http.StatusNotFound:
		add("not-found", Trouble, notFound, "the answer is", t.detail())
	case t.status == http.StatusUpgradeRequired && word != "", t.status == http.StatusBadRequest && word != "":
		add("no-upgrade", Trouble, "the hub was reached, but not asked for one."+taken)
	case http1 != nil && http1.status == 0:
		add("no-upgrade", Trouble, "it needs HTTP/1.1, which nobody answers here: %s", reason(http1.err))
	case t.status == 0:
		add("no-upgrade", Trouble, "there is no answer to the request for one: %s"+taken, reason(t.err))
	default:
		add("no-upgrade", Trouble, "the request for one is answered %d%s."+taken, t.status, t.detail())
	}
}

// judgePoll is about long polling.
func (b *besides) judgePoll(add addFunc) {
	t := &b.poll
	switch short := t.lived < b.wait-50*time.Millisecond; {
	case t.status == http.StatusNoContent && !short && b.wait < usualWait:
		add("unproven", Note, "an answer came after %s; polls wait for %s by default. Run the doctor with -for %s.", seconds(b.wait), seconds(usualWait), usualWait)
	case t.status == http.StatusNoContent && !short:
		add("works", Fine, "an answer came after %s.", seconds(b.wait))
	case t.status == http.StatusNoContent:
		add("hub-ended", Failed, "the hub answered after %s already: it drains.", seconds(t.lived))
	case t.status == http.StatusUnauthorized && strings.Contains(t.problem(), "CredentialExpired"):
		add("hub-ended", Failed, "the token expired after %s.", seconds(t.lived))
	case t.busy():
		add("busy", Failed, takesNone, t.detail())
	case t.expired:
		add("vanished", Trouble, "no answer came within %s.", seconds(t.lived))
	case t.status == http.StatusNotFound:
		add("not-found", Trouble, notFound, "the answer is", t.detail())
	case t.status == 0 || t.status >= 500:
		add("idle-cut", Trouble, "one that waits for %s is cut after %s (%s). Have clients ask for a shorter wait=, or raise the limit.", seconds(b.wait), seconds(t.lived), t.said())
	default:
		add("refused", Trouble, "the answer is %d%s.", t.status, t.detail())
	}
}

// judgeSignalR is about SignalR's clients, which take a stream where there is no WebSocket, and polls
// where that is refused. o is of streams.
func (b *besides) judgeSignalR(add addFunc, o *observed) {
	t := &b.negotiated
	held := o.flow(func(string, Severity, string, ...any) {}) || o.kept()
	switch {
	case t.status == http.StatusNotFound:
		add("not-found", Trouble, notFound, "POST /signalr/negotiate is answered", t.detail())
	case t.status != http.StatusNoContent:
		add("refused", Trouble, "POST /signalr/negotiate fails: %s%s", t.said(), t.detail())
	case b.signalr.hello == nil && held:
		add("no-upgrade", Trouble, "its clients get no WebSocket here, and wait in vain for the stream that they take instead. Have them take polls: transport: HttpTransportType.LongPolling.")
	case b.signalr.hello == nil:
		add("no-upgrade", Note, "its clients get no WebSocket here, and take Server-Sent Events or polls instead.")
	default:
		add("works", Fine, "its clients get a WebSocket.")
	}
}
