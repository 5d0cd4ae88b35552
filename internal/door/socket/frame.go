package socket

import (
	"encoding/binary"

	"github.com/gobwas/ws"
)

// AppendText appends a text frame.
func AppendText(b, text []byte) []byte { return append(AppendTextHead(b, len(text)), text...) }

// AppendTextHead appends the head of a text frame of so many bytes, which follow.
func AppendTextHead(b []byte, size int) []byte { return appendHead(b, ws.OpText, size) }

// AppendPing appends a ping, which every client answers.
func AppendPing(b []byte) []byte { return appendHead(b, ws.OpPing, 0) }

// AppendEnd appends a close frame, whose code says the reason to clients that look at nothing else.
func AppendEnd(b []byte, reason string) []byte { return appendClose(b, codeOf(reason), reason) }

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

// mostControl is how many bytes a control frame may have (RFC 6455, section 5.5).
const mostControl = ws.MaxControlFramePayloadSize

// appendClose appends a close frame of a code, and a reason if there is one.
func appendClose(b []byte, code ws.StatusCode, reason string) []byte {
	reason = reason[:min(len(reason), mostControl-2)]
	b = binary.BigEndian.AppendUint16(appendHead(b, ws.OpClose, 2+len(reason)), uint16(code))
	return append(b, reason...)
}

// answerClose appends the close frame that answers a client's: with its code (RFC 6455, section
// 5.5.1).
func answerClose(b []byte, code ws.StatusCode) []byte {
	if code == ws.StatusNoStatusRcvd {
		return appendHead(b, ws.OpClose, 0)
	}
	return appendClose(b, code, "")
}

func appendPong(b, payload []byte) []byte {
	return append(appendHead(b, ws.OpPong, len(payload)), payload...)
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
