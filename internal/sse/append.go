package sse

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
)

// ErrField is returned for an id or event name that would forge a field.
var ErrField = errors.New("sse: CR, LF or NUL in an id or event name")

// AppendEvent appends one event; an empty id or name leaves the field out. Data
// of several lines becomes several data fields (LF, CR and CRLF all end a line).
// The id comes last, though a client that follows the standard (WHATWG HTML §9.2.6)
// does not mind: many take an id as soon as its line is there, and if they are cut in
// the middle of the event they must not say that they have it.
func AppendEvent(b []byte, id, name string, data []byte) ([]byte, error) {
	if strings.ContainsAny(id, "\r\n\x00") || strings.ContainsAny(name, "\r\n\x00") {
		return b, ErrField
	}
	if name != "" {
		b = append(append(append(b, "event: "...), name...), '\n')
	}
	for {
		end := bytes.IndexByte(data, '\n')
		if cr := bytes.IndexByte(data[:max(end, 0)], '\r'); end >= 0 && cr >= 0 {
			end = cr
		} else if end < 0 {
			end = bytes.IndexByte(data, '\r')
		}
		if end < 0 {
			b = append(append(append(b, "data: "...), data...), '\n')
			if id != "" {
				return AppendID(b, id), nil
			}
			return append(b, '\n'), nil
		}
		b = append(append(append(b, "data: "...), data[:end]...), '\n')
		if bytes.HasPrefix(data[end:], []byte("\r\n")) {
			end++
		}
		data = data[end+1:]
	}
}

// Comment is what a client takes for nothing but a sign of life (WHATWG HTML §9.2.6).
const Comment = ":\n\n"

// AppendID appends an id alone: a client remembers it, and dispatches nothing
// (WHATWG HTML §9.2.6). The id must not hold CR, LF or NUL.
func AppendID(b []byte, id string) []byte {
	return append(append(append(b, "id: "...), id...), "\n\n"...)
}

// AppendRetry appends the field that tells a client how long to wait before it
// reconnects; it belongs in front of an event.
func AppendRetry(b []byte, d time.Duration) []byte {
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, d.Milliseconds(), 10)
	return append(b, '\n')
}
