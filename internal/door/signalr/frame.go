package signalr

import "encoding/binary"

// appendFrame appends a text frame of WebSocket as servers send it: whole and not masked
// (RFC 6455 §5.2).
func appendFrame(b, text []byte) []byte {
	const wholeText = 0x81 // FIN, and the opcode of text
	b = append(b, wholeText)
	switch n := len(text); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, text...)
}
