package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/problem"
)

// Bounds of NDJSON publishing.
const (
	writeTimeout = 30 * time.Second
	bodyTimeout  = 30 * time.Second // for a client that keeps silent in the middle of its lines
	// maxTogether lines that have come are published together: so their
	// acknowledgements are awaited together.
	maxTogether = 64

	lineBuffer = 32 << 10 // of what has come
	keptText   = 32 << 10 // of the lines that were taken from it; more is not kept
	linesBytes = 96 << 10 // what a body takes while it is open, its goroutines too
)

// lineProblem is the answer to a line that was refused.
type lineProblem struct {
	Line   int                    `json:"line"`
	Code   string                 `json:"code"`
	Detail string                 `json:"detail"`
	Errors []problem.FieldProblem `json:"errors,omitempty"`
	ID     string                 `json:"id,omitempty"` // of an event that may have been stored
}

// lineReceipt is the answer to a line that was accepted, with results=all.
type lineReceipt struct {
	Line int `json:"line"`
	delivery.ReceiptJSON
}

// lineSummary ends the answer.
type lineSummary struct {
	Accepted   int    `json:"accepted"`
	Refused    int    `json:"refused"`
	Duplicates int    `json:"duplicates"`
	NoMembers  int    `json:"withoutMembers,omitzero"` // events for a room that has none
	Cursor     string `json:"cursor,omitempty"`
}

// lineIntake is what takes the lines.
type lineIntake struct {
	maxLine int // bytes; 0 lifts the limit
	// publish publishes lines, each for itself. taking ends, with a cause, when no more
	// are taken.
	publish func(ctx, taking context.Context, lines [][]byte) ([]delivery.Receipt, []error)
	refused func(error) // told of each line that was
	body    *allowance.Call
	answer  *allowance.Call // whose the answers are that are not read yet
	ending  <-chan struct{} // closed when no more lines are taken
	expires time.Time       // of the credential; zero: never
}

// publishLines publishes one event a line as they come. Answers go through a
// spool, so that a client may write all it has before it reads anything.
func publishLines(w http.ResponseWriter, r *http.Request, in lineIntake) error {
	results := r.URL.Query().Get("results")
	if results != "" && results != "all" { // else a misspelt one would show by what is missing only
		return &problem.FieldError{Code: problem.CodeInvalidField, Field: "results", Index: -1, Detail: "must be all"}
	}
	if !in.body.Use(linesBytes) {
		return problem.ErrBodies
	}
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()            // HTTP/2 needs none and says so
	rc.SetWriteDeadline(time.Time{}) // the server's own is for answers that come at once
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	out := newSpool(w, in.answer)
	defer out.finish()

	var sum lineSummary
	body := &patientBody{body: r.Body, rc: rc, ending: in.ending, expires: in.expires}
	taking, stop := context.WithCancelCause(r.Context())
	defer stop(nil)
	go body.interrupt(taking, stop)
	lines := lineReader{in: bufio.NewReaderSize(body, lineBuffer), max: in.maxLine, memory: in.body}
	var pending [][]byte // lines
	var numbers []int
	for n := 0; ; {
		lines.reset()
		clear(pending) // or a long line is kept while the next one is waited for
		pending, numbers = pending[:0], numbers[:0]
		var end error // of the line after those
		for more := true; more && end == nil && len(numbers) < maxTogether; more = lines.more() {
			var line []byte
			line, end = lines.next()
			n++
			if end == nil {
				end = body.expired() // the line may have been read before
			}
			if end == nil && len(bytes.TrimSpace(line)) > 0 {
				pending, numbers = append(pending, line), append(numbers, n)
			}
		}
		receipts, errs := in.publish(r.Context(), taking, pending)
		for i, number := range numbers {
			var err error
			switch got := receipts[i]; {
			case errs[i] != nil:
				sum.Refused++
				in.refused(errs[i])
				err = out.put(problemOf(number, errs[i]))
			default:
				sum.Accepted++
				if got.Cursor != "" {
					sum.Cursor = got.Cursor
				}
				if got.Duplicate {
					sum.Duplicates++
				}
				if got.Members == 0 {
					sum.NoMembers++
				}
				if results == "all" {
					err = out.put(lineReceipt{number, delivery.NewReceiptJSON(got)})
				}
			}
			if err != nil { // nobody reads the answers
				return nil
			}
		}
		switch _, broken := errors.AsType[*readError](end); {
		case end == nil:
		case end == io.EOF:
			return out.put(sum)
		default:
			sum.Refused++
			in.refused(end)
			if err := out.put(problemOf(n, end)); broken {
				return out.put(sum)
			} else if err != nil {
				return nil
			}
		}
	}
}

func problemOf(line int, err error) lineProblem {
	p := problem.Of(err)
	fault := lineProblem{Line: line, Code: p.Code, Detail: p.Detail, Errors: problem.FieldProblems(err)}
	if ids := problem.EventIDs(err); len(ids) == 1 {
		fault.ID = ids[0]
	}
	return fault
}

// readError is the end of a body that did not end well.
type readError struct{ answer problem.Problem }

func (e *readError) Error() string             { return e.answer.Error() }
func (e *readError) Problem() *problem.Problem { return &e.answer }

// patientBody gives each read its own time, until the hub ends them all. No deadline
// is left while nothing is read: HTTP/2 would end the body, and HTTP/1 the request's
// context.
type patientBody struct {
	body    io.Reader
	rc      *http.ResponseController
	ending  <-chan struct{}
	expires time.Time

	mu      sync.Mutex
	reading bool // guarded by mu
}

// readUntil sets the deadline of a read, or lifts it at zero.
func (b *patientBody) readUntil(deadline time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = !deadline.IsZero()
	b.rc.SetReadDeadline(deadline)
}

// interrupt ends what waits, a line for its turn or a read, when the hub ends or the
// credential does; it returns once the request has.
func (b *patientBody) interrupt(taking context.Context, stop context.CancelCauseFunc) {
	var expired <-chan time.Time
	if !b.expires.IsZero() {
		timer := time.NewTimer(time.Until(b.expires))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-b.ending:
	case <-expired:
	case <-taking.Done():
		return
	}
	stop(b.over())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading { // else the next read sees it
		b.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// over is why no more is read, nil while more is.
func (b *patientBody) over() error {
	select {
	case <-b.ending:
		return &readError{problem.Problem{Status: http.StatusServiceUnavailable, Code: "Draining", Detail: "the hub is draining; lines from here on were not taken"}}
	default:
		return b.expired()
	}
}

func (b *patientBody) expired() error {
	if !b.expires.IsZero() && !time.Now().Before(b.expires) {
		return &readError{problem.Problem{Status: http.StatusUnauthorized, Code: access.ErrExpired.Code, Detail: access.ErrExpired.Detail + "; lines from here on were not taken"}}
	}
	return nil
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.readUntil(time.Now().Add(bodyTimeout))
	defer b.readUntil(time.Time{})
	if err := b.over(); err != nil { // and if it ends from now on, interrupt's deadline is the last
		return 0, err
	}
	n, err := b.body.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case b.over() != nil:
		return n, b.over()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, &readError{problem.Problem{Status: http.StatusRequestTimeout, Code: "BodyTimeout", Detail: "30 s without a byte"}}
	}
	return n, &readError{problem.Problem{Status: http.StatusBadRequest, Code: "BodyUnreadable", Detail: "the body broke off"}}
}

// lineReader reads lines of at most max bytes (0: any); a longer one is skipped
// to its end and is an error, as is one for which there is no memory, and reading can
// go on.
type lineReader struct {
	in     *bufio.Reader
	max    int
	memory *allowance.Call
	text   []byte // the lines since reset
}

// reset gives up the lines that were read.
func (l *lineReader) reset() {
	if l.text = l.text[:0]; cap(l.text) > keptText {
		l.text = nil
	}
	l.memory.Back(linesBytes)
}

// next is the next line, until reset.
func (l *lineReader) next() ([]byte, error) {
	start := len(l.text)
	var skipped error
	for {
		part, err := l.in.ReadSlice('\n')
		switch n := len(l.text) - start; {
		case skipped != nil:
		case l.max > 0 && n+len(bytes.TrimRight(part, "\r\n")) > l.max:
			skipped = &http.MaxBytesError{Limit: int64(l.max)}
		case !l.memory.Use(allowance.BodyCopies * len(part)):
			skipped = problem.ErrBodies
		default:
			l.text = append(l.text, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF && (len(l.text) > start || skipped != nil):
		case err != nil:
			return nil, err
		}
		if skipped != nil {
			l.text = l.text[:start]
			return nil, skipped
		}
		return l.text[start:len(l.text):len(l.text)], nil
	}
}

// more says whether a whole line has come.
func (l *lineReader) more() bool {
	come, _ := l.in.Peek(l.in.Buffered())
	return bytes.IndexByte(come, '\n') >= 0
}

// spool writes answers beside the reading of the body; past its holder's share of the
// memory for answers put waits until the client reads, and gives up after writeTimeout.
type spool struct {
	w      http.ResponseWriter
	memory *allowance.Call // which knows nothing of what is held
	ended  chan struct{}

	mu   sync.Mutex
	cond *sync.Cond
	// Guarded by mu.
	pending []byte
	held    int // bytes, with those that are being written
	closed  bool
	err     error
}

func newSpool(w http.ResponseWriter, memory *allowance.Call) *spool {
	s := &spool{w: w, memory: memory, ended: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	go s.run()
	return s
}

func (s *spool) put(answer any) error {
	line, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && !s.takeLocked(len(line)) {
		s.cond.Wait()
	}
	if s.err == nil {
		s.pending = append(s.pending, line...)
		s.cond.Broadcast()
	}
	return s.err
}

// takeLocked takes memory for n bytes. One line is always taken: the holder's other calls
// may have all of its share.
func (s *spool) takeLocked(n int) bool {
	if s.held == 0 {
		s.memory.Force(int64(n))
	} else if !s.memory.Take(int64(n)) {
		return false
	}
	s.held += n
	return true
}

func (s *spool) giveLocked(n int) {
	s.memory.Give(int64(n))
	s.held -= n
}

func (s *spool) run() {
	defer close(s.ended)
	rc := http.NewResponseController(s.w)
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closed {
			s.cond.Wait()
		}
		data := s.pending
		s.pending = nil
		s.mu.Unlock()
		if len(data) == 0 {
			return
		}
		rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := s.w.Write(data)
		if err == nil {
			err = rc.Flush()
		}
		rc.SetWriteDeadline(time.Time{}) // HTTP/2 resets a stream whose deadline comes, also one that writes nothing
		s.mu.Lock()
		s.giveLocked(len(data))
		if s.err = err; err != nil { // nobody will write what came meanwhile
			s.giveLocked(len(s.pending))
			s.pending = nil
		}
		s.cond.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// finish waits until all answers are written, or cannot be.
func (s *spool) finish() {
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.ended
}
