package sse

import "time"

// Encoding writes a hub's streams as Server-Sent Events: cursors are ids, and what the hub
// itself says is an event of its type.
type Encoding struct {
	Unnamed bool // events have no name, so that all of them reach EventSource's onmessage
}

// AppendEvent appends an event of a type. An empty cursor leaves the id out. Neither may
// hold CR, LF or NUL.
func (e Encoding) AppendEvent(b []byte, cursor, typ string, envelope []byte) []byte {
	if e.Unnamed {
		typ = ""
	}
	b, _ = AppendEvent(b, cursor, typ, envelope)
	return b
}

// AppendWord appends what the hub itself says, which has a name always.
func (Encoding) AppendWord(b []byte, cursor, typ string, retry time.Duration, data []byte) []byte {
	if retry > 0 {
		b = AppendRetry(b, retry)
	}
	b, _ = AppendEvent(b, cursor, typ, data)
	return b
}

// AppendPlace appends a cursor alone.
func (Encoding) AppendPlace(b []byte, cursor string) []byte { return AppendID(b, cursor) }

// AppendHeartbeat appends a comment.
func (Encoding) AppendHeartbeat(b []byte) []byte { return append(b, Comment...) }

// AppendEnd appends nothing: a stream ends with its connection.
func (Encoding) AppendEnd(b []byte, _ string) []byte { return b }
