package socket

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// mostMessage is how many bytes a client's message may have, however many fragments it is in.
const mostMessage = 16 << 10

// fault is how a client broke the protocol, as a close frame says it.
type fault struct {
	code   ws.StatusCode
	reason string
}

// Faults of what a client sends (RFC 6455, section 7.4.1).
var (
	errLength  = &fault{ws.StatusProtocolError, "a frame's length is not valid"}
	errBinary  = &fault{ws.StatusUnsupportedData, "only text messages are taken"}
	errUTF8    = &fault{ws.StatusInvalidFramePayloadData, "a text is not valid UTF-8"}
	errTooLong = &fault{ws.StatusMessageTooBig, "a message has more than 16384 bytes"}
	errFirst   = &fault{ws.StatusMessageTooBig, "the first frame has more than 4096 bytes"}
	errClose   = &fault{ws.StatusProtocolError, "a close frame is not valid"}
	errMemory  = &fault{codeOf("capacity"), "capacity"}
)

// listener is told what a client has sent, whole.
type listener interface {
	message(text []byte) // is lent
	ping(payload []byte) // likewise
	close(code ws.StatusCode)
}

// reader reads the frames of a client from bytes as they come. Between messages it keeps nothing.
type reader struct {
	rest       []byte // the beginning of a frame
	text       []byte // what has come of a message in fragments
	fragmented bool
	closed     bool // a close frame was the last
}

// kept is how many bytes are kept of what has not come whole.
func (r *reader) kept() int { return cap(r.rest) + cap(r.text) }

// read reads what has come next, which it changes, and tells of what is whole. After a fault, or a
// close frame, nothing more is to be read.
func (r *reader) read(p []byte, to listener) *fault {
	data, was := p, len(r.rest)
	if was > 0 {
		data = append(r.rest, p...)
	}
	for begin := data; ; {
		size, bad := r.frame(data, to)
		if bad != nil {
			r.rest, r.text = nil, nil
			return bad
		}
		if r.closed {
			r.rest, r.text = nil, nil
			return nil
		}
		if size > 0 {
			data = data[size:]
			continue
		}
		switch {
		case len(data) == 0:
			r.rest = nil
		case was == 0 || len(data) < len(begin): // not ours, or no longer the beginning
			r.rest = bytes.Clone(data)
		default:
			r.rest = data
		}
		return nil
	}
}

// frame reads the frame that data begins with, and says how long it is; 0 if it has not come
// whole. A head says too much before its payload comes: so it is looked at first.
func (r *reader) frame(data []byte, to listener) (size int, bad *fault) {
	head, at, bad := readHead(data)
	if bad != nil || at == 0 {
		return 0, bad
	}
	state := ws.StateServerSide
	if r.fragmented {
		state = state.Set(ws.StateFragmented)
	}
	if err := ws.CheckHeader(head, state); err != nil {
		return 0, &fault{ws.StatusProtocolError, err.Error()}
	}
	switch {
	case head.OpCode == ws.OpBinary:
		return 0, errBinary
	case head.OpCode.IsData() && head.Length > int64(mostMessage-len(r.text)):
		return 0, errTooLong
	case int64(len(data)-at) < head.Length:
		return 0, nil
	}
	size = at + int(head.Length)
	payload := data[at:size]
	ws.Cipher(payload, head.Mask, 0)
	return size, r.whole(head, payload, to)
}

// readHead reads the head of a frame, and says how long it is; 0 if it has not come whole.
func readHead(data []byte) (head ws.Header, size int, bad *fault) {
	from := bytes.NewReader(data)
	head, err := ws.ReadHeader(from)
	switch {
	case err == ws.ErrHeaderLengthMSB, err == ws.ErrHeaderLengthUnexpected:
		return head, 0, errLength
	case err != nil:
		return head, 0, nil
	}
	if size = len(data) - from.Len(); size != ws.HeaderSize(head) { // RFC 6455, section 5.2: in as few bytes as it takes
		return head, 0, errLength
	}
	return head, size, nil
}

// whole takes a frame that has come whole.
func (r *reader) whole(head ws.Header, payload []byte, to listener) *fault {
	switch head.OpCode {
	case ws.OpPing:
		to.ping(payload)
		return nil
	case ws.OpPong:
		return nil
	case ws.OpClose:
		code, bad := readClose(payload)
		if bad == nil {
			r.closed = true
			to.close(code)
		}
		return bad
	}
	r.fragmented = !head.Fin
	if r.fragmented || r.text != nil {
		r.text = append(r.text, payload...)
		payload = r.text
	}
	if r.fragmented {
		return nil
	}
	r.text = nil
	if !utf8.Valid(payload) {
		return errUTF8
	}
	to.message(payload)
	return nil
}

// readClose reads the code of a close frame, which may have none, and looks at its reason.
func readClose(payload []byte) (ws.StatusCode, *fault) {
	if len(payload) == 0 {
		return ws.StatusNoStatusRcvd, nil
	}
	if len(payload) == 1 {
		return 0, errClose
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(payload))
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
	default: // never sent, or nobody's (RFC 6455, section 7.4)
		return 0, errClose
	}
	if !utf8.Valid(payload[2:]) {
		return 0, errUTF8
	}
	return code, nil
}
