package reader

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// phase is where in an HTTP answer a reader stands.
type phase uint8

const (
	inHead    phase = iota
	inBody          // identity: the body lasts as long as the connection
	inSize          // the hexadecimal size of a chunk
	inExtra         // what follows the size in its line
	inChunk         // left bytes of it are to come
	inCR            // the line end after a chunk, its two bytes
	inLF            //
	afterLast       // behind the last chunk nothing is read
	inFrames        // it was upgraded to WebSocket
)

const (
	maxHead  = 16 << 10
	maxChunk = 1 << 30
)

// Reader follows one HTTP/1.1 answer and counts the whole events in its
// body, or in the frames of a WebSocket. It keeps a few bytes of state and none
// of the body, because there are ten thousand of them.
type Reader struct {
	head   []byte // what came of the head; nil behind it
	Events int    // blocks with a data line, ended by an empty line
	left   int    // of this chunk; while its size is read, the size so far
	phase  phase
	digits bool // the size has a digit
	data   bool // the block has a data line
	match  int8 // so many bytes of the line equal those of dataField; -1: another line
	frames frames
}

const dataField = "data:"

// OfBody is a reader of an answer's body, which somebody else takes out of its chunks.
func OfBody() *Reader { return &Reader{phase: inBody} }

// Pinged tells whether the server has asked for a pong since it was last asked.
func (r *Reader) Pinged() bool {
	pinged := r.frames.pinged
	r.frames.pinged = false
	return pinged
}

// Begun tells whether the head has been read.
func (r *Reader) Begun() bool { return r.phase != inHead }

// Feed takes the next bytes of the answer, however they are split.
func (r *Reader) Feed(p []byte) error {
	for len(p) > 0 {
		switch r.phase {
		case inHead:
			rest, err := r.feedHead(p)
			if err != nil {
				return err
			}
			p = rest
		case inBody:
			r.count(p)
			return nil
		case inSize:
			digit, ok := hex(p[0])
			switch {
			case ok:
				r.left, r.digits = r.left<<4|digit, true
				if r.left > maxChunk {
					return errors.New("a chunk is too large")
				}
				p = p[1:]
			case !r.digits:
				return fmt.Errorf("a chunk's size starts with %q", p[0])
			default:
				r.phase = inExtra
			}
		case inExtra:
			end := bytes.IndexByte(p, '\n')
			if end < 0 {
				return nil
			}
			p, r.digits, r.phase = p[end+1:], false, inChunk
			if r.left == 0 {
				r.phase = afterLast
			}
		case inChunk:
			n := min(r.left, len(p))
			r.count(p[:n])
			p, r.left = p[n:], r.left-n
			if r.left == 0 {
				r.phase = inCR
			}
		case inCR, inLF:
			if want := "\r\n"[r.phase-inCR]; p[0] != want {
				return fmt.Errorf("a chunk is followed by %q", p[0])
			}
			p = p[1:]
			if r.phase++; r.phase == afterLast {
				r.phase = inSize
			}
		case inFrames:
			events, err := r.frames.feed(p)
			r.Events += events
			return err
		case afterLast:
			return nil
		}
	}
	return nil
}

// feedHead gathers the head and returns what follows it.
func (r *Reader) feedHead(p []byte) ([]byte, error) {
	had := len(r.head)
	r.head = append(r.head, p...)
	end := bytes.Index(r.head, []byte("\r\n\r\n"))
	if end < 0 {
		if len(r.head) > maxHead {
			return nil, errors.New("the head is too long")
		}
		return nil, nil
	}
	head := string(r.head[:end])
	r.head = nil
	status, fields, _ := strings.Cut(head, "\r\n")
	rest := p[end+len("\r\n\r\n")-had:]
	if strings.HasPrefix(status, "HTTP/1.1 101") {
		r.phase = inFrames
		return rest, nil
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200") {
		return nil, fmt.Errorf("answered %q", status)
	}
	r.phase = inBody
	for line := range strings.SplitSeq(fields, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Transfer-Encoding") && strings.EqualFold(strings.TrimSpace(value), "chunked") {
			r.phase = inSize
		}
	}
	return rest, nil
}

// count goes through a span of the body line by line; the scan for line ends is
// the only one that touches every byte.
func (r *Reader) count(p []byte) {
	for {
		end := bytes.IndexByte(p, '\n')
		line := p
		if end >= 0 {
			line = p[:end]
		}
		for i := 0; i < len(line) && r.match >= 0 && int(r.match) < len(dataField); i++ {
			if line[i] == dataField[r.match] {
				r.match++
			} else {
				r.match = -1
			}
		}
		if end < 0 {
			return
		}
		switch int(r.match) {
		case 0: // an empty line
			if r.data {
				r.Events++
			}
			r.data = false
		case len(dataField):
			r.data = true
		}
		r.match = 0
		p = p[end+1:]
	}
}

func hex(c byte) (int, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0'), true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10, true
	}
	return 0, false
}
