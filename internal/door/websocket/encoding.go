package websocket

import (
	"strconv"
	"time"

	"realtimehub/internal/door/socket"
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
	b = socket.AppendTextHead(b, len(before)+len(cursor)+len(after))
	b = append(append(append(b, before...), cursor...), after...)
	return e.AppendHeartbeat(b)
}

// AppendHeartbeat appends a ping, which every client answers.
func (Encoding) AppendHeartbeat(b []byte) []byte { return socket.AppendPing(b) }

// AppendEnd appends a close frame, whose code says the reason to clients that look at nothing else.
func (Encoding) AppendEnd(b []byte, reason string) []byte {
	return socket.AppendEnd(b, reason)
}

// appendObject appends a text frame of an event's or a word's parts; data and more are one JSON
// value. Cursors and types have no character that JSON escapes.
func appendObject(b []byte, cursor, typ string, data, more []byte) []byte {
	const id, event, value = `"id":"`, `"event":"`, `"data":`
	size := len(`{`+event+`",`+value+`}`) + len(typ) + len(data) + len(more)
	if cursor != "" {
		size += len(id+`",`) + len(cursor)
	}
	b = append(socket.AppendTextHead(b, size), '{')
	if cursor != "" {
		b = append(append(append(b, id...), cursor...), `",`...)
	}
	b = append(append(append(b, event...), typ...), `",`...)
	b = append(append(append(b, value...), data...), more...)
	return append(b, '}')
}
