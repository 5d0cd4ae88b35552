package signalr

import (
	"slices"
	"time"

	"realtimehub/internal/door/socket"
	"realtimehub/internal/sse"
	"realtimehub/internal/strictjson"
)

// Transport is how records travel to a client.
type Transport uint8

// The transports. Records that are polled for are bare.
const (
	Events  Transport = iota // Server-Sent Events without names, a record each
	Polling                  // bodies of as many records as there are
	Sockets                  // text frames of WebSocket, a record each
)

// Encoding writes a hub's streams as records of SignalR: an event is an invocation of its type,
// with its envelope and its cursor, which is null where there is none. What the hub itself says
// has the same form.
type Encoding struct{ Transport Transport }

// AppendEvent implements delivery.Encoding.
func (e Encoding) AppendEvent(b []byte, cursor, typ string, envelope []byte) []byte {
	return e.AppendRecords(b, invocation(cursor, typ, envelope))
}

// AppendWord implements delivery.Encoding. When to come back is the client's own policy. But on a
// socket a handshake is answered before it is there: any hub takes the POST that it comes in, and
// refuses a bad one, and clients wait for the answer after they have sent it.
func (e Encoding) AppendWord(b []byte, cursor, typ string, _ time.Duration, data []byte) []byte {
	record := invocation(cursor, typ, data)
	if typ == "hub.ready" && e.Transport != Sockets {
		record = append([]byte(accepted), record...)
	}
	return e.AppendRecords(b, record)
}

// AppendPlace implements delivery.Encoding: a client knows no cursor but its events', so it is a
// sign of life alone.
func (e Encoding) AppendPlace(b []byte, _ string) []byte { return e.AppendHeartbeat(b) }

// AppendHeartbeat implements delivery.Encoding. The pings of clients are no answers to it, and may
// be less frequent: on a socket it has one that every client answers.
func (e Encoding) AppendHeartbeat(b []byte) []byte {
	b = e.AppendRecords(b, []byte("{\"type\":6}\x1e"))
	if e.Transport == Sockets {
		b = socket.AppendPing(b)
	}
	return b
}

// stays are the reasons of an end after which a client does not come back by itself: it was sent
// away on purpose, or would be again.
var stays = []string{"kicked", "replaced", "refused"}

// AppendEnd implements delivery.Encoding.
func (e Encoding) AppendEnd(b []byte, reason string) []byte {
	end := []byte("{\"type\":7,\"allowReconnect\":true}\x1e")
	if slices.Contains(stays, reason) {
		end = appendClose(nil, reason)
	}
	b = e.AppendRecords(b, end)
	if e.Transport == Sockets {
		b = socket.AppendEnd(b, reason)
	}
	return b
}

// invocation is the record of an event.
func invocation(cursor, typ string, envelope []byte) []byte {
	r := make([]byte, 0, len(envelope)+len(cursor)+len(typ)+64)
	r = strictjson.AppendQuote(append(r, `{"type":1,"target":`...), typ)
	r = append(append(r, `,"arguments":[`...), envelope...)
	if cursor == "" {
		r = append(r, ",null"...)
	} else {
		r = strictjson.AppendQuote(append(r, ','), cursor)
	}
	return append(r, "]}\x1e"...)
}

// AppendRecords appends whole records as the transport carries them: together.
func (e Encoding) AppendRecords(b, records []byte) []byte {
	switch e.Transport {
	case Events:
		b, _ = sse.AppendEvent(b, "", "", records)
		return b
	case Sockets:
		return socket.AppendText(b, records)
	}
	return append(b, records...)
}
