package sse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// DefaultMaxLine is the limit NewReader sets.
const DefaultMaxLine = 16 << 20

// ErrTooLong is returned by Reader.Next when a line, or the data of one event, passes the limit.
var ErrTooLong = errors.New("sse: line or event data too long")

// Event is what a dispatched EventSource event carries.
type Event struct {
	ID   string // last event ID as of this event (the stream's, sticky)
	Type string // "message" when the event field was absent or empty
	Data string
}

// Reader reads events from a text/event-stream, as the WHATWG HTML standard says in section 9.2.6,
// "Interpreting an event stream" (https://html.spec.whatwg.org/multipage/server-sent-events.html).
// It is the client's side: it takes any bytes, and only a failing read or ErrTooLong stops it.
// A Reader is for one goroutine: no field or method may be used while Next runs, save from OnQuiet.
type Reader struct {
	MaxLine  int // the most bytes in a line, and in the data gathered for one event
	Comments int // comment lines seen so far, heartbeats among them
	BareIDs  int // blocks seen so far that had an id but no data, thus no event

	// OnQuiet, if set, is called by Next after each comment and each bare-id block: signs of life
	// that make no event, and so do not make Next return.
	OnQuiet func()

	br   *bufio.Reader
	line []byte
	err  error // sticky
	cr   bool  // the last line ended in CR: an LF that comes next belongs to it
	bom  bool  // the first line, and with it any byte order mark, is past

	data      []byte // the data buffer
	eventType string // the event type buffer
	id        string // the last event ID buffer
	hasID     bool   // this block had a valid id field
	lastID    string // the last event ID string
	retry     time.Duration
	hasRetry  bool
}

// NewReader returns a Reader of the stream src.
func NewReader(src io.Reader) *Reader {
	return &Reader{MaxLine: DefaultMaxLine, br: bufio.NewReader(src)}
}

// Reset makes r read src, the body of the next connection. As for an EventSource that reconnects,
// the last event ID, the retry time and the counters stay; an unfinished block is forgotten.
func (r *Reader) Reset(src io.Reader) {
	r.br, r.err, r.cr, r.bom = bufio.NewReader(src), nil, false, false
	r.data, r.eventType, r.id, r.hasID = r.data[:0], "", r.lastID, false
}

// LastEventID returns the last event ID string, which a client sends when it reconnects. It moves at
// the end of every block with an id, also of one without data.
func (r *Reader) LastEventID() string { return r.lastID }

// Retry returns the last valid retry value, and whether there was one. One too large for a
// time.Duration is cut to the most milliseconds that fit.
func (r *Reader) Retry() (time.Duration, bool) { return r.retry, r.hasRetry }

// Next returns the next event, as soon as the blank line ending it is read. At the end of the stream
// the error is io.EOF, and an unfinished block is discarded. An error is final: Next repeats it.
func (r *Reader) Next() (Event, error) {
	for r.err == nil {
		if r.err = r.readLine(); r.err != nil {
			break
		}
		switch {
		case len(r.line) == 0:
			if ev, ok := r.dispatch(); ok {
				return ev, nil
			}
		case r.line[0] == ':':
			r.Comments++
			r.quiet()
		default:
			r.err = r.field()
		}
	}
	return Event{}, r.err
}

// readLine reads a line into r.line, without its end: LF, CR or CRLF. A CR ends the line at once, for
// what follows it may be long in coming.
func (r *Reader) readLine() error {
	for r.line = r.line[:0]; ; {
		if _, err := r.br.Peek(1); err != nil {
			return err
		}
		buf, _ := r.br.Peek(r.br.Buffered())
		if r.cr && buf[0] == '\n' {
			r.cr = false
			_, _ = r.br.Discard(1)
			continue
		}
		r.cr = false
		n := bytes.IndexAny(buf, "\r\n")
		ended := n >= 0
		if !ended {
			n = len(buf)
		}
		if len(r.line)+n > r.MaxLine {
			return ErrTooLong
		}
		r.line = append(r.line, buf[:n]...)
		if !ended {
			_, _ = r.br.Discard(n)
			continue
		}
		r.cr = buf[n] == '\r'
		_, _ = r.br.Discard(n + 1)
		if !r.bom {
			r.bom = true
			r.line = bytes.TrimPrefix(r.line, []byte("\ufeff"))
		}
		return nil
	}
}

// field processes the field on r.line ("process the field" in the standard).
func (r *Reader) field() error {
	name, value, _ := bytes.Cut(r.line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "data":
		if len(r.data)+len(value)+1 > r.MaxLine {
			return ErrTooLong
		}
		r.data = append(append(r.data, value...), '\n')
	case "event":
		r.eventType = DecodeUTF8(value)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			r.id, r.hasID = DecodeUTF8(value), true
		}
	case "retry":
		if d, ok := parseRetry(value); ok {
			r.retry, r.hasRetry = d, true
		}
	}
	return nil
}

// dispatch ends a block ("dispatch the event"): the ID is committed first, whether or not there is
// data; without data there is no event.
func (r *Reader) dispatch() (ev Event, ok bool) {
	r.lastID = r.id
	if len(r.data) > 0 {
		ev = Event{ID: r.lastID, Type: r.eventType, Data: DecodeUTF8(r.data[:len(r.data)-1])}
		if ev.Type == "" {
			ev.Type = "message"
		}
		ok = true
	}
	bareID := r.hasID && !ok
	r.data, r.eventType, r.hasID = r.data[:0], "", false
	if bareID {
		r.BareIDs++
		r.quiet()
	}
	return ev, ok
}

func (r *Reader) quiet() {
	if r.OnQuiet != nil {
		r.OnQuiet()
	}
}

// parseRetry reads a retry value: ASCII digits only, in base ten, as milliseconds.
func parseRetry(b []byte) (time.Duration, bool) {
	var ms int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		ms = min(ms*10+int64(c-'0'), math.MaxInt64/int64(time.Millisecond))
	}
	return time.Duration(ms) * time.Millisecond, len(b) > 0
}

// DecodeUTF8 is "UTF-8 decode without BOM" of the Encoding standard: one U+FFFD for each maximal
// prefix of a well-formed sequence, where ranging over a Go string gives one for each byte.
func DecodeUTF8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		if c == utf8.RuneError && n == 1 {
			for n < len(b) && !utf8.FullRune(b[:n+1]) { // b[:n+1] could still become a rune
				n++
			}
		}
		s.WriteRune(c)
		b = b[n:]
	}
	return s.String()
}
