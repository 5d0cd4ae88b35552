package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"realtimehub/internal/doctor"
	"realtimehub/internal/sse"
)

// Bounds of a probe.
const (
	maxProbeTime  = 30 * time.Minute
	minProbeEvery = 50 * time.Millisecond
	maxShown      = 256 // bytes of a header that is repeated
)

// Doctor serves probes: streams of the same engine, with the same headers, as real
// ones, so that what becomes of them becomes of those.
type Doctor struct {
	hub    *Hub
	limits *Limits
}

// probe is what was asked for: a tick so often, or silence (0), for a time.
type probe struct {
	every, lasts time.Duration
}

func probeOf(query url.Values) (p probe, err error) {
	var faults Faults
	duration := func(name string, otherwise, least, most time.Duration, zero bool, bad string) time.Duration {
		text := query.Get(name)
		if text == "" {
			return otherwise
		}
		d, err := time.ParseDuration(text)
		if err != nil || d > most || d < least && !(zero && d == 0) {
			faults.add(CodeInvalidField, name, "must be %s", bad)
		}
		return d
	}
	p.every = duration("every", 250*time.Millisecond, minProbeEvery, maxProbeTime, true, "a duration such as 250ms, 50ms at least, or 0 for silence")
	p.lasts = duration("for", 30*time.Second, 1, maxProbeTime, false, "a duration such as 30s, 30m at most")
	return p, faults.Err()
}

// Serve is a probe until its time is over, the client leaves, its credential ends
// or the hub does.
func (d *Doctor) Serve(w http.ResponseWriter, r *http.Request, p probe, who *Caller) error {
	if d.hub.Draining() {
		return &problem{http.StatusServiceUnavailable, "Draining", ErrDraining.Error()}
	}
	over, err := d.limits.Probe(who.Holder(r))
	if err != nil {
		return err
	}
	gone := make(chan struct{})
	stream := d.hub.Engine().NewStream(sse.OnGone(func(error) {
		over()
		close(gone)
	}))
	start := time.Now()
	sendProbe(stream, probeFrame(doctor.EventHello, seen(r, p, start, d.hub.Engine().Heartbeat())))
	if p.every == 0 {
		stream.Silence()
	}
	go d.run(stream, p, start, who.Expires, gone)
	d.hub.Engine().Serve(w, r, stream)
	return nil
}

// run has a goroutine to itself: probes are few, and their times must not depend on
// what else the hub does.
func (d *Doctor) run(stream *sse.Stream, p probe, start, expires time.Time, gone <-chan struct{}) {
	end := time.NewTimer(p.lasts)
	defer end.Stop()
	var ticks, expired <-chan time.Time
	if p.every > 0 {
		ticker := time.NewTicker(p.every)
		defer ticker.Stop()
		ticks = ticker.C
	}
	if !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires))
		defer timer.Stop()
		expired = timer.C
	}
	seq := 0
	tick := func(name string) *sse.Frame {
		now := time.Now()
		return probeFrame(name, doctor.Tick{Seq: seq, At: formatTime(now), ElapsedMS: now.Sub(start).Milliseconds()})
	}
	for {
		select {
		case <-ticks:
			seq++
			sendProbe(stream, tick(doctor.EventTick))
			continue
		case <-end.C:
			stream.Close(tick(doctor.EventDone))
		case <-expired:
			stream.Close(d.hub.Closing(CloseExpired, ""))
		case <-d.hub.Drained():
			stream.Close(d.hub.Closing(CloseDrain, ""))
		case <-gone:
		}
		return
	}
}

func sendProbe(stream *sse.Stream, frame *sse.Frame) {
	var d sse.Delivery
	d.Send(stream, frame)
	d.Flush()
}

func probeFrame(name string, data any) *sse.Frame {
	text, _ := json.Marshal(data)
	b, _ := sse.AppendEvent(nil, "", name, text)
	return sse.NewFrame(b, false)
}

// seen is what of a request may be told: nothing secret.
func seen(r *http.Request, p probe, at time.Time, heartbeat time.Duration) doctor.Hello {
	short := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxShown)], "") }
	headers := map[string][]string{}
	for _, name := range doctor.ShownHeaders() {
		for _, value := range r.Header[name] {
			headers[name] = append(headers[name], short(value))
		}
	}
	return doctor.Hello{
		At: formatTime(at), Protocol: r.Proto, TLS: r.TLS != nil, Host: short(r.Host), Headers: headers,
		EveryMS: p.every.Milliseconds(), ForMS: p.lasts.Milliseconds(), HeartbeatMS: heartbeat.Milliseconds(),
	}
}
