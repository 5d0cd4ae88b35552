package poll

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
)

// Times of a poll.
const (
	usualWait  = 25 * time.Second // most proxies give up on an answer after 30 s or a minute
	mostWait   = 60 * time.Second
	gatherTime = 50 * time.Millisecond // more is waited for after the first event
	lingerTime = 10 * time.Second      // a poll counts as a connection after its answer
	writeTime  = 30 * time.Second      // for an answer to be read
)

// Bounds of an answer.
const (
	mostEvents = 500
	mostBytes  = 256 << 10 // at which it ends; one event may be larger
)

// Door answers polls.
type Door struct{ doors *door.Opener }

// New makes a Door.
func New(doors *door.Opener) *Door { return &Door{doors} }

// question is what a client asks.
type question struct {
	sub   delivery.Subscription
	wait  time.Duration
	limit int
}

func read(r *http.Request, who *access.Caller) (q question, err error) {
	var faults problem.Faults
	sub, query, err := door.Read(r, who)
	sub.Transport, sub.Encoding, sub.Linger = delivery.TransportPoll, encoding{}, lingerTime
	sub.Cursor, sub.Client = query.Get("cursor"), strings.Clone(query.Get("client"))
	if !event.ValidText(sub.Client) {
		faults.Add(problem.CodeInvalidField, "client", "must be UTF-8 of up to 256 bytes, without control characters")
	}
	q = question{sub, waitOf(&faults, query), limitOf(&faults, query)}
	return q, errors.Join(err, faults.Err())
}

func waitOf(f *problem.Faults, query url.Values) time.Duration {
	text := query.Get("wait")
	if text == "" {
		return usualWait
	}
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 || wait > mostWait {
		f.Add(problem.CodeInvalidField, "wait", "must be a duration such as 25s, 60s at most")
	}
	return wait
}

func limitOf(f *problem.Faults, query url.Values) int {
	text := query.Get("limit")
	if text == "" {
		return mostEvents
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > mostEvents {
		f.Add(problem.CodeInvalidField, "limit", "must be 1 to %d", mostEvents)
	}
	return limit
}

// Serve answers with the events that follow a cursor, once there are any.
func (d *Door) Serve(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	q, err := read(r, who)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		header(w)
		return nil
	}
	if q.sub.Cursor == "" {
		q.wait = 0 // the place now is what is asked for
	}
	c, stream, over, err := d.doors.Open(r, q.sub, true)
	if err != nil {
		return d.doors.Refusal(q.sub.Tenant, err)
	}
	defer over()
	defer lobby.Pause(r)() // it is counted as a stream
	stream.Silence()
	memory := d.doors.Quotas.Answer(who.Holder(r))
	defer memory.Close()
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{})  // the server's own is for requests
	rc.SetWriteDeadline(time.Time{}) // likewise; not supported: the server's own holds
	a := answer{asked: q.sub.Cursor, known: q.sub.Cursor, limit: q.limit, memory: memory, places: []string{}, hub: map[string]json.RawMessage{}}
	d.gather(r.Context(), &a, c, stream, q.wait)
	d.doors.Streams.Linger(c, stream, writeTime+lingerTime) // while its client reads
	defer d.doors.Streams.Linger(c, stream, lingerTime)
	rc.SetWriteDeadline(time.Now().Add(writeTime))
	if d.doors.Streams.Draining() {
		w.Header().Set("Connection", "close") // the next poll goes to another hub
	}
	return a.write(w)
}

// gather adds to an answer what comes on a connection's stream: until there is enough, for a while
// after the first event, or until the client is to wait no longer.
func (d *Door) gather(ctx context.Context, a *answer, c *delivery.Connection, stream *engine.Stream, wait time.Duration) {
	due := time.Now().Add(wait)
	end := time.AfterFunc(wait, func() { d.doors.Streams.Rest(c, stream) })
	defer end.Stop()
	a.first = func() { end.Reset(min(gatherTime, time.Until(due))) }
	d.doors.Streams.Engine().Hand(ctx, stream, a.take)
}

func header(w http.ResponseWriter) {
	w.Header()["Content-Type"] = []string{"application/json"}
	w.Header()["Cache-Control"] = []string{"no-store"}
}
