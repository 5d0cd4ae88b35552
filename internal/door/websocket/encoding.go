package websocket

import (
	"encoding/binary"
	"strconv"
	"time"

	"github.com/gobwas/ws"
)

// Encoding writes a hub's streams as text frames, each a JSON object: {"id","event","data"}, which
// is what Server-Sent Events have as three fields. An id alone is a place.
type Encoding struct{}

// AppendEvent appends an event.
func (Encoding) AppendEvent(b []byte, cursor, typ string, envelope []byte) []byte {
	return appendObject(b, cursor, typ, envelope, nil)
}

// AppendWord appends what the hub itself says. When to come back is in hub.ready, as it is in
// hub.closing already: there is no other place for it.
func (Encoding) AppendWord(b []byte, cursor, typ string, retry time.Duration, data []byte) []byte {
	var more []byte
	if typ == "hub.ready" && retry > 0 {
		more = strconv.AppendInt([]byte(`,"retryMs":`), retry.Milliseconds(), 10)
		more, data = append(more, '}'), data[:len(data)-1]
	}
	return appendObject(b, cursor, typ, data, more)
}

// AppendPlace appends a cursor alone, and a heartbeat, in whose place it may stand.
func (e Encoding) AppendPlace(b []byte, cursor string) []byte {
	const before, after = `{"id":"`, `"}`
	b = appendHead(b, ws.OpText, len(before)+len(cursor)+len(after))
	b = append(append(append(b, before...), cursor...), after...)
	return e.AppendHeartbeat(b)
}

// AppendHeartbeat appends a ping, which every client answers.
func (Encoding) AppendHeartbeat(b []byte) []byte { return appendHead(b, ws.OpPing, 0) }

// AppendEnd appends a close frame, whose code says the reason to clients that look at nothing else.
func (Encoding) AppendEnd(b []byte, reason string) []byte {
	return appendClose(b, codeOf(reason), reason)
}

// codeOf is the code of a close frame for a reason of hub.closing: of RFC 6455, section 7.4.1, or
// IANA's, or from 4000, which is each server's own.
func codeOf(reason string) ws.StatusCode {
	switch reason {
	case "expired":
		return 4401
	case "refused":
		return 4403
	case "slow", "unacked":
		return 4408
	case "replaced":
		return 4409
	case "kicked":
		return 4410
	case "capacity":
		return 4429
	case "pending", "unavailable":
		return 1013 // try again later
	case "protocol":
		return ws.StatusProtocolError
	}
	return ws.StatusGoingAway
}

// appendObject appends a text frame of an event's or a word's parts; data and more are one JSON
// value. Cursors and types have no character that JSON escapes.
func appendObject(b []byte, cursor, typ string, data, more []byte) []byte {
	const id, event, value = `"id":"`, `"event":"`, `"data":`
	size := len(`{`+event+`",`+value+`}`) + len(typ) + len(data) + len(more)
	if cursor != "" {
		size += len(id+`",`) + len(cursor)
	}
	b = append(appendHead(b, ws.OpText, size), '{')
	if cursor != "" {
		b = append(append(append(b, id...), cursor...), `",`...)
	}
	b = append(append(append(b, event...), typ...), `",`...)
	b = append(append(append(b, value...), data...), more...)
	return append(b, '}')
}

// appendText appends a text frame.
func appendText(b, text []byte) []byte { return append(appendHead(b, ws.OpText, len(text)), text...) }

// mostControl is how many bytes a control frame may have (RFC 6455, section 5.5).
const mostControl = ws.MaxControlFramePayloadSize

// appendClose appends a close frame of a code, and a reason if there is one.
func appendClose(b []byte, code ws.StatusCode, reason string) []byte {
	reason = reason[:min(len(reason), mostControl-2)]
	b = binary.BigEndian.AppendUint16(appendHead(b, ws.OpClose, 2+len(reason)), uint16(code))
	return append(b, reason...)
}

// appendHead appends the head of a whole frame, which is not masked: it is the server's (RFC 6455,
// section 5.2).
func appendHead(b []byte, op ws.OpCode, size int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case size < 126:
		return append(b, byte(size))
	case size <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(size))
}
