package probe

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/doctor"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/overload"
	"realtimehub/internal/problem"
	"realtimehub/internal/reserve"
	"realtimehub/internal/sse"
)

// Bounds of a probe.
const (
	maxProbeTime  = 30 * time.Minute
	minProbeEvery = 50 * time.Millisecond
	maxShown      = 256 // bytes of a header that is repeated
)

// Server serves probes: streams of the same engine, with the same headers, as real
// ones, so that what becomes of them becomes of those.
type Server struct {
	streams *delivery.Streams
	limits  *access.Rates

	mu   sync.Mutex
	told map[string]*openProbe // guarded by mu; those with ticks, by id
}

// New serves probes, as many as limits allow.
func New(streams *delivery.Streams, limits *access.Rates) *Server {
	return &Server{streams: streams, limits: limits, told: map[string]*openProbe{}}
}

// openProbe is one that may be told of another's end.
type openProbe struct {
	holder   event.TenantProfile
	encoding delivery.Encoding
	stream   *engine.Stream
	start    time.Time
}

// probe is what was asked for: a tick so often, or silence (0), for a time; and who
// is to be told of its end, empty for nobody.
type probe struct {
	every, lasts time.Duration
	tell         string
}

// probeID is what [rand.Text] makes.
var probeID = regexp.MustCompile(`^([A-Z2-7]{26})?$`)

// parse reads of a query what a probe is to do; an error names all that is wrong.
func parse(raw string) (p probe, err error) {
	var faults problem.Faults
	query := faults.Query(raw)
	duration := func(name string, otherwise, least, most time.Duration, zero bool, bad string) time.Duration {
		text := query.Get(name)
		if text == "" {
			return otherwise
		}
		d, err := time.ParseDuration(text)
		if err != nil || d > most || d < least && !(zero && d == 0) {
			faults.Add(problem.CodeInvalidField, name, "must be %s", bad)
		}
		return d
	}
	p.every = duration("every", 250*time.Millisecond, minProbeEvery, maxProbeTime, true, "a duration such as 250ms, 50ms at least, or 0 for silence")
	p.lasts = duration("for", 30*time.Second, 1, maxProbeTime, false, "a duration such as 30s, 30m at most")
	if p.tell = query.Get("tell"); !probeID.MatchString(p.tell) {
		faults.Add(problem.CodeInvalidField, "tell", "must be the id of a probe, from its doctor.hello")
	}
	return p, faults.Err()
}

// Serve is a probe as a stream until its time is over, the client leaves, its credential ends or
// the hub does.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if r.Method == http.MethodHead {
		_, err := parse(r.URL.RawQuery)
		if err == nil {
			sse.Header(w.Header())
		}
		return err
	}
	stream, err := s.open(r, who, sse.Encoding{})
	if err != nil {
		return err
	}
	sse.Header(w.Header())
	s.streams.Engine().Serve(w, r, stream)
	return nil
}

// open begins what a request asks for. The caller serves the stream.
func (s *Server) open(r *http.Request, who *access.Caller, encoding delivery.Encoding) (*engine.Stream, error) {
	p, err := parse(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	holder := who.Holder(r)
	over, err := s.take(r, holder)
	if err != nil {
		return nil, err
	}
	id := rand.Text()
	gone := make(chan struct{})
	words := s.streams.Encoder(encoding)
	stream := words.NewStream(func(why error) {
		over()
		s.ended(id, p.tell, holder, why)
		close(gone)
	})
	o := &openProbe{holder, encoding, stream, time.Now()}
	hello := seen(r, p, o.start, s.streams.Engine().Heartbeat())
	hello.ID, hello.Tells = id, s.find(p.tell, holder) != nil
	o.send(doctor.EventHello, hello)
	if p.every == 0 {
		stream.Silence()
	} else {
		s.mu.Lock()
		s.told[id] = o
		s.mu.Unlock()
	}
	go s.run(o, words, p, who.Expires(), gone)
	return stream, nil
}

// take takes one of the probes that a holder may have, until over is called.
func (s *Server) take(r *http.Request, holder event.TenantProfile) (over func(), err error) {
	switch {
	case reserve.Holds(r.Context()) || reserve.Begun():
		return nil, access.ErrDescriptors
	case s.streams.Overloaded():
		return nil, overload.ErrOverloaded
	case s.streams.Draining():
		return nil, &problem.Problem{Status: http.StatusServiceUnavailable, Code: "Draining", Detail: delivery.ErrDraining.Error()}
	}
	return s.limits.Probe(holder)
}

// endOf tells when a credential ends that expires; nil: never.
func endOf(expires time.Time) <-chan time.Time {
	if expires.IsZero() {
		return nil
	}
	return time.After(time.Until(expires))
}

// run has a goroutine to itself: probes are few, and their times must not depend on
// what else the hub does.
func (s *Server) run(o *openProbe, words *delivery.Encoder, p probe, expires time.Time, gone <-chan struct{}) {
	end, expired := time.After(p.lasts), endOf(expires)
	var ticks <-chan time.Time // nil: never
	if p.every > 0 {
		ticks = time.Tick(p.every)
	}
	for seq := 0; ; {
		select {
		case <-ticks:
			seq++
			o.send(doctor.EventTick, o.tick(seq))
			continue
		case <-end:
			o.stream.Close(o.frame(doctor.EventDone, o.tick(seq), "done"))
		case <-expired:
			o.stream.Close(words.Closing(delivery.CloseExpired, 0))
		case <-s.streams.Drained():
			o.stream.Close(words.Closing(delivery.CloseDrain, 0))
		case <-gone:
		}
		return
	}
}

// tick is what a probe has to say now.
func (o *openProbe) tick(seq int) doctor.Tick {
	now := time.Now()
	return doctor.Tick{Seq: seq, At: event.FormatTime(now), ElapsedMS: now.Sub(o.start).Milliseconds()}
}

// send sends an event.
func (o *openProbe) send(name string, data any) {
	var d engine.Batch
	d.Send(o.stream, o.frame(name, data, ""))
	d.Flush()
}

// frame is an event, and the end of the stream for a reason; empty: it goes on.
func (o *openProbe) frame(name string, data any, end string) *engine.Frame {
	text, _ := json.Marshal(data)
	b := o.encoding.AppendEvent(nil, "", name, text)
	if end != "" {
		b = o.encoding.AppendEnd(b, end)
	}
	return engine.NewFrame(b, false)
}

// find is an open probe that has ticks, of this holder; nil if there is none. It may
// be on another hub.
func (s *Server) find(id string, holder event.TenantProfile) *openProbe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.told[id]; p != nil && p.holder == holder {
		return p
	}
	return nil
}

// ended forgets a probe, and tells the other one why it ended, unless it was to.
func (s *Server) ended(id, tell string, holder event.TenantProfile, why error) {
	s.mu.Lock()
	delete(s.told, id)
	s.mu.Unlock()
	other := s.find(tell, holder)
	if other == nil || why == nil {
		return
	}
	how := doctor.GivenUp
	switch {
	case errors.Is(why, engine.ErrGone):
		how = doctor.Left
	case errors.Is(why, engine.ErrVanished):
		how = doctor.Vanished
	}
	now := other.tick(0)
	other.send(doctor.EventGone, doctor.Gone{ID: id, How: how, At: now.At, ElapsedMS: now.ElapsedMS})
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
		At: event.FormatTime(at), Protocol: r.Proto, TLS: r.TLS != nil, Host: short(r.Host), Headers: headers,
		EveryMS: p.every.Milliseconds(), ForMS: p.lasts.Milliseconds(), HeartbeatMS: heartbeat.Milliseconds(),
	}
}
