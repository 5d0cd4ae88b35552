package doctor

import (
	"strings"
	"time"
)

// observed is all that was tried.
type observed struct {
	every   time.Duration
	lasts   time.Duration
	stagger time.Duration // the silent one began so much later
	secure  bool          // https
	host    string        // of the URL
	http1   *trial        // brief, HTTP/1.1 forced; nil: no other was to be had
	brief   trial         // brief, as negotiated
	tabs    []trial       // at once, each with a connection; nil: they share one
	left    *trial        // was closed when it had begun; nil: none was
	ticking trial
	silent  trial
}

// kept says whether the hello of the silent stream did not come before its end: what
// is before a silence is not passed on, and a stream of events is one late.
func (o *observed) kept() bool {
	t := &o.silent
	if len(t.arrivals) == 0 {
		return t.opened() && t.lived >= hiccup
	}
	return t.done && t.arrivals[0].came >= leastLag && 2*t.arrivals[0].came >= t.lived
}

// clumps is how much the slowest event was held back compared with the fastest, how
// many came closer together than they were sent, and in how many bursts all came.
func (t *trial) clumps() (lag time.Duration, clumped, bursts int) {
	fastest := t.fastest()
	for i, a := range t.arrivals {
		lag = max(lag, a.came-a.sent-fastest)
		if i > 0 {
			before := t.arrivals[i-1]
			if (a.came-before.came)*4 < a.sent-before.sent {
				clumped++
				continue
			}
		}
		bursts++
	}
	return lag, clumped, bursts
}

// silentCut is the silent stream, cut when the hub saw it closed if that was first: a
// proxy may end its silence on the hub's side alone.
func (o *observed) silentCut() *trial {
	t := o.silent
	if gone := o.told(t.hello); gone.How == Left {
		lived := o.ticking.fastest() + time.Duration(gone.ElapsedMS)*time.Millisecond - t.asked.Sub(o.ticking.asked)
		if lived < t.lived-o.stagger {
			t.lived, t.done, t.expired = max(lived, 0), false, false
		}
	}
	return &t
}

// fastest is how long the event took that came fastest, by two clocks.
func (t *trial) fastest() time.Duration {
	if len(t.arrivals) == 0 {
		return 0
	}
	fastest := t.arrivals[0].came
	for _, a := range t.arrivals {
		fastest = min(fastest, a.came-a.sent)
	}
	return fastest
}

// told is what the ticking probe heard of another's end.
func (o *observed) told(hello *Hello) Gone {
	for _, gone := range o.ticking.gone {
		if hello != nil && hello.ID == gone.ID {
			return gone
		}
	}
	return Gone{}
}

// sameHost says whether the hub got the name that was asked for: with its port, unless
// that is the scheme's own.
func (o *observed) sameHost() bool {
	plain := func(host string) string {
		own := ":80"
		if o.secure {
			own = ":443"
		}
		return strings.TrimSuffix(strings.ToLower(host), own)
	}
	hello := o.best().hello
	return hello == nil || plain(hello.Host) == plain(o.host)
}

// heartbeat is of the hub's real streams.
func (o *observed) heartbeat() time.Duration {
	if h := o.best().hello; h != nil {
		return time.Duration(h.HeartbeatMS) * time.Millisecond
	}
	return 0
}

// best is the trial that tells most: one that heard the hub.
func (o *observed) best() *trial {
	for _, t := range []*trial{&o.ticking, &o.silent, &o.brief, o.http1} {
		if t != nil && t.hello != nil {
			return t
		}
	}
	return &o.brief
}

// coding is how the answer was compressed.
func (t *trial) coding() string {
	if t.gzip {
		return "gzip"
	}
	return t.header.Get("Content-Encoding")
}

// proxied says whether somebody is in between: who adds nothing and changes nothing
// is not seen.
func (o *observed) proxied() bool {
	best := o.best()
	h := best.hello
	for name := range h.Headers {
		if name != "Accept-Encoding" {
			return true
		}
	}
	return !o.sameHost() || h.Protocol != best.proto || h.TLS != o.secure || len(o.proxies()) > 0
}
