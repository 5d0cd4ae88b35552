package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what to examine.
type Config struct {
	URL   string        // of the hub, as clients know it; any path before /v1/ is kept
	Token string        // sent as a Bearer token; empty: none
	For   time.Duration // how long the streams are to live
	TLS   *tls.Config   // nil: the system's certificates

	Door   Door   // the one that clients use, whose trouble is trouble; empty: Server-Sent Events
	Origin string // of the pages that open WebSockets; empty: the hub's own

	// Progress is called now and then, by one goroutine. May be nil.
	Progress func(Progress)
}

// Progress is how far an examination is.
type Progress struct {
	Passed, Of time.Duration
	Ticks      int
	Last       time.Duration // since anything came
	Silent     bool          // the silent stream is still open
}

// Report is all that was found.
type Report struct {
	URL      string    `json:"url"`
	Verdict  Severity  `json:"verdict"`       // fine, trouble or failed, of the door that clients use
	Doors    []Outlook `json:"doors"`         // none: the hub was not reached
	Use      Door      `json:"use,omitempty"` // the first door that works; empty: none does
	Hub      *Hello    `json:"hub"`           // how the request reached the hub; null: nothing came from there
	Ticking  *Outcome  `json:"ticking,omitempty"`
	Silent   *Outcome  `json:"silent,omitempty"`
	Findings []Finding `json:"findings"`
}

// Outcome is what became of a stream.
type Outcome struct {
	Status      int                 `json:"status"`
	Protocol    string              `json:"protocol"`
	Headers     map[string][]string `json:"headers"`
	Compressed  string              `json:"compressed,omitempty"`
	ConnectedMS int64               `json:"connectedMs"`
	FirstByteMS int64               `json:"firstByteMs"`
	LivedMS     int64               `json:"livedMs"`
	Ended       string              `json:"ended"` // done, cut, waiting (we gave up), or the hub's reason
	Ticks       int                 `json:"ticks"`
	LatestMS    int64               `json:"latestMs"` // the most that an event was held back
	Bytes       int64               `json:"bytes"`
}

// Of an examination.
const (
	MinFor   = time.Second
	MaxFor   = 30 * time.Minute
	briefly  = 200 * time.Millisecond
	patience = 10 * time.Second // for an answer that should be over
	tabs     = 6                // that a browser with HTTP/1.1 gives a stream each
	together = time.Second
	tries    = 4 // to be taken, and to meet the hub that another probe is on
)

// beyond is how long a watch takes, so that a proxy's limit, which is a round time as
// the watch is, is not met by the probe's own end.
func beyond(watch time.Duration) time.Duration {
	return min(watch+watch/16+500*time.Millisecond, MaxFor)
}

// Address is where a hub's probe is, given any of its addresses. Query and fragment
// are left out: they may hold a token.
func Address(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("is not an http or https URL")
	}
	prefix := strings.TrimSuffix(u.Path, "/")
	for _, known := range []string{doors[SSE].path, doors[WebSocket].path, doors[Poll].path, doors[SignalR].path, doctorPath, "/v1"} {
		prefix = strings.TrimSuffix(prefix, known)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: path.Join("/", prefix, doctorPath)}, nil
}

// Run examines. Its error is a wrong Config's or ctx's; what keeps it from the hub is
// a finding.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	u, err := Address(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("URL: %w", err)
	}
	if cfg.For < MinFor || cfg.For > MaxFor {
		return nil, fmt.Errorf("for: %v is not between %v and %v", cfg.For, MinFor, MaxFor)
	}
	known := doors[cmp.Or(cfg.Door, SSE)]
	if known.name == "" {
		return nil, fmt.Errorf("door: %q is none of %s", cfg.Door, strings.Join(doorNames(), ", "))
	}
	report := &Report{URL: u.Scheme + "://" + u.Host + strings.TrimSuffix(u.Path, doctorPath)}
	base := probe{url: u, token: cfg.Token, tls: cfg.TLS, grace: patience}
	o := observed{
		secure: u.Scheme == "https", host: u.Host, lasts: beyond(cfg.For),
		every:   min(max(cfg.For/20, 50*time.Millisecond), 250*time.Millisecond),
		stagger: min(max(cfg.For/10, 300*time.Millisecond), time.Second),
	}
	others := besides{socket: o, origin: cmp.Or(cfg.Origin, u.Scheme+"://"+u.Host)}
	o.greet(ctx, base)
	finding, failed := o.failure()
	switch {
	case failed && ofAllDoors[finding.Code]:
		report.Findings, report.Verdict = []Finding{finding}, Failed
		return report, ctx.Err()
	case failed:
		others.examine(ctx, base)
		report.Findings = []Finding{finding}
	default:
		base.http1 = o.brief.status != http.StatusOK // HTTP/2 failed, and is a finding
		o.crowd(ctx, base)
		o.examineBeside(ctx, base, cfg.Progress, &others)
		report.Ticking, report.Silent = o.ticking.outcome(), o.silent.outcome()
		report.Findings = judge(o)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	report.Hub = o.best().hello
	report.Findings = append(report.Findings, others.judge(&o)...)
	report.settle(cmp.Or(cfg.Door, SSE))
	return report, nil
}

// verdict is what all findings come to: trouble that was found is certain, however
// incomplete the rest.
func verdict(found []Finding) Severity {
	worst := Fine
	for _, f := range found {
		if f.Severity == Trouble {
			return Trouble
		}
		if f.Severity == Failed {
			worst = Failed
		}
	}
	return worst
}

// greet says a short word, with HTTP/1.1 alone too where that is a choice.
func (o *observed) greet(ctx context.Context, base probe) {
	base.lasts = briefly
	var both sync.WaitGroup
	both.Go(func() { o.brief = base.run(ctx) })
	if o.secure {
		both.Go(func() {
			old := base
			old.http1 = true
			t := old.run(ctx)
			o.http1 = &t
		})
	}
	both.Wait()
}

// crowd opens as many streams at once as a browser does, where each has a connection:
// with HTTP/2 the other side has said how many it takes.
func (o *observed) crowd(ctx context.Context, base probe) {
	if o.best().streams > 0 {
		return
	}
	base.lasts = together
	o.tabs = make([]trial, tabs)
	var all sync.WaitGroup
	for i := range o.tabs {
		all.Go(func() { o.tabs[i] = base.once(ctx) })
	}
	all.Wait()
}

// leave opens a stream and closes it at once, on the hub where the ticking one is,
// which is told.
func (o *observed) leave(ctx context.Context, base probe) {
	base.leaves = true
	for range tries {
		t := base.run(ctx)
		if t.hello == nil || t.hello.ID == "" {
			return // refused, or the hub is older
		}
		o.left = &t
		if t.hello.Tells {
			return
		}
	}
}

// examineBeside is examine, and examines the other doors once both long probes have begun: where
// there is room for few streams, it is the others that find none.
func (o *observed) examineBeside(ctx context.Context, base probe, tell func(Progress), others *besides) {
	begun := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		select {
		case <-begun:
		case <-time.After(o.stagger + together): // the silent one is held back, or refused
		}
		others.examine(ctx, base)
	})
	o.examine(ctx, base, tell, func(*Hello) { close(begun) })
	all.Wait()
}

// examine has both long probes run at once: what ends one may not end the other. begun is called once
// both have; it may be nil, as tell may.
func (o *observed) examine(ctx context.Context, base probe, tell func(Progress), begun func(*Hello)) {
	base.lasts = o.lasts
	var ticks, silence progress
	ticking, silent := base, base
	ticking.every, ticking.report, silent.report, silent.greets = o.every, &ticks, &silence, begun
	greeted := make(chan string, 1) // the hello's id, for who leaves
	var told atomic.Value
	ticking.greets = func(h *Hello) {
		told.Store(h.ID)
		greeted <- h.ID
	}
	var all sync.WaitGroup
	beside, over := context.WithCancel(ctx)
	all.Go(func() {
		defer over() // nobody is left to be told
		o.ticking = ticking.run(ctx)
		close(greeted)
	})
	all.Go(func() {
		leaver := base
		if leaver.tell = <-greeted; leaver.tell != "" && !base.upgrades() {
			o.leave(beside, leaver)
		}
	})
	all.Go(func() {
		select { // later, so that an equal age and an equal moment are two things
		case <-time.After(o.stagger):
			silent.tell, _ = told.Load().(string)
			o.silent = silent.run(ctx)
		case <-ctx.Done():
		}
	})
	end := make(chan struct{})
	go func() {
		all.Wait()
		close(end)
	}()
	o.follow(end, &ticks, &silence, tell)
}

// follow tells how far both probes are, until end is closed; tell may be nil.
func (o *observed) follow(end <-chan struct{}, ticks, silence *progress, tell func(Progress)) {
	if tell == nil {
		<-end
		return
	}
	start := time.Now()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-end:
			return
		case <-ticker.C:
		}
		p := Progress{Passed: time.Since(start), Of: o.lasts + o.stagger}
		p.Last = p.Passed
		ticks.mu.Lock()
		p.Ticks = ticks.ticks
		if !ticks.last.IsZero() {
			p.Last = time.Since(ticks.last)
		}
		ticks.mu.Unlock()
		silence.mu.Lock()
		p.Silent = !silence.over
		silence.mu.Unlock()
		tell(p)
	}
}

func (t *trial) outcome() *Outcome {
	lag, _, _ := t.clumps()
	ended := t.closing
	switch {
	case t.done:
		ended = "done"
	case t.expired:
		ended = "waiting"
	case ended == "":
		ended = "cut"
	}
	header := http.Header{}
	for _, name := range []string{"Age", "Cache-Control", "Content-Encoding", "Content-Type", "Server", "Via", "X-Accel-Buffering"} {
		if values := t.header.Values(name); len(values) > 0 {
			header[name] = values
		}
	}
	return &Outcome{
		Status: t.status, Protocol: protocol(t.proto), Headers: header, Compressed: t.coding(),
		ConnectedMS: t.connected.Milliseconds(), FirstByteMS: t.firstByte.Milliseconds(), LivedMS: t.lived.Milliseconds(),
		Ended: ended, Ticks: max(len(t.arrivals)-1, 0), LatestMS: lag.Milliseconds(), Bytes: t.bytes,
	}
}
