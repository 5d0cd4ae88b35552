package ndjson

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/problem"
)

const lineBuffer = 32 << 10 // of what has come

const keptText = 32 << 10 // of the lines that were taken from it; more is not kept

// readError is the end of a body that did not end well.
type readError struct{ answer problem.Problem }

func (r *readError) Error() string { return r.answer.Error() }

func (r *readError) Problem() *problem.Problem { return &r.answer }

// patientBody gives each read its own time, until the hub ends them all. No deadline
// is left while nothing is read: HTTP/2 would end the body, and HTTP/1 the request's
// context.
type patientBody struct {
	body    io.Reader
	rc      *http.ResponseController
	ending  <-chan struct{}
	expires time.Time

	ended bool // its end was read

	mu      sync.Mutex
	reading bool // guarded by mu
}

// leave bounds the time in which net/http drops what still comes of a body that has not ended.
// Its client can read the answer meanwhile, which it may not once the connection is closed.
func (p *patientBody) leave() {
	if !p.ended {
		p.rc.SetReadDeadline(time.Now().Add(leaveTime))
	}
}

// readUntil sets the deadline of a read, or lifts it at zero.
func (p *patientBody) readUntil(deadline time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = !deadline.IsZero()
	p.rc.SetReadDeadline(deadline)
}

// interrupt ends what waits, a line for its turn or a read, when the hub ends or the
// credential does; it returns once the request has.
func (p *patientBody) interrupt(taking context.Context, stop context.CancelCauseFunc) {
	var expired <-chan time.Time
	if !p.expires.IsZero() {
		timer := time.NewTimer(time.Until(p.expires))
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-p.ending:
	case <-expired:
	case <-taking.Done():
		return
	}
	stop(p.over())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reading { // else the next read sees it
		p.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

// over is why no more is read, nil while more is.
func (p *patientBody) over() error {
	select {
	case <-p.ending:
		return &readError{problem.Problem{Status: http.StatusServiceUnavailable, Code: "Draining", Detail: "the hub is draining; lines from here on were not taken"}}
	default:
		return p.expired()
	}
}

func (p *patientBody) expired() error {
	if !p.expires.IsZero() && !time.Now().Before(p.expires) {
		return &readError{problem.Problem{Status: http.StatusUnauthorized, Code: access.ErrExpired.Code, Detail: access.ErrExpired.Detail + "; lines from here on were not taken"}}
	}
	return nil
}

func (p *patientBody) Read(into []byte) (int, error) {
	p.readUntil(time.Now().Add(bodyTimeout))
	defer p.readUntil(time.Time{})
	if err := p.over(); err != nil { // and if it ends from now on, interrupt's deadline is the last
		return 0, err
	}
	n, err := p.body.Read(into)
	p.ended = err == io.EOF
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case p.over() != nil:
		return n, p.over()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, &readError{problem.Problem{Status: http.StatusRequestTimeout, Code: "BodyTimeout", Detail: "no byte of the body came for 30 s"}}
	}
	return n, &readError{problem.Problem{Status: http.StatusBadRequest, Code: "BodyUnreadable", Detail: "the connection ended in the middle of the body"}}
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
		switch {
		case skipped != nil:
		case l.max > 0 && lineBytes(l.text[start:], part) > l.max:
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

// lineBytes is how long a line is that goes on with a part, without its end: \n, \r\n or \r.
func lineBytes(begun, part []byte) int {
	part = bytes.TrimSuffix(part, []byte("\n"))
	last := part
	if len(part) == 0 {
		last = begun
	}
	n := len(begun) + len(part)
	if bytes.HasSuffix(last, []byte("\r")) {
		n--
	}
	return n
}

// more says whether a whole line has come.
func (l *lineReader) more() bool {
	come, _ := l.in.Peek(l.in.Buffered())
	return bytes.IndexByte(come, '\n') >= 0
}
