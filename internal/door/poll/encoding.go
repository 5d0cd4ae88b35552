package poll

import (
	"encoding/binary"
	"strings"
	"time"
)

// encoding writes what a connection is sent as pieces for the request that gathers them.
type encoding struct{}

// piece is one of them: its cursor and its kind after their lengths, then its data after its
// own. An event has no kind, and a place no data; a heartbeat has nothing.
type piece struct {
	cursor string // empty: the client knows no other place than before
	kind   string // of what the hub itself says
	data   []byte
}

const pieceHead = 1 + 1 + 4 // bytes of the three lengths

func (p piece) append(b []byte) []byte {
	b = append(b, byte(len(p.cursor)), byte(len(p.kind)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.data)))
	return append(append(append(b, p.cursor...), p.kind...), p.data...)
}

// cut takes the first piece off what was appended.
func cut(b []byte) (p piece, rest []byte) {
	cursor, kind, data := int(b[0]), int(b[1]), int(binary.BigEndian.Uint32(b[2:]))
	b = b[pieceHead:]
	p = piece{string(b[:cursor]), string(b[cursor : cursor+kind]), b[cursor+kind : cursor+kind+data]}
	return p, b[cursor+kind+data:]
}

// AppendEvent implements delivery.Encoding.
func (encoding) AppendEvent(b []byte, cursor, _ string, envelope []byte) []byte {
	return piece{cursor: cursor, data: envelope}.append(b)
}

// AppendWord implements delivery.Encoding. When to come back is in the data.
func (encoding) AppendWord(b []byte, cursor, typ string, _ time.Duration, data []byte) []byte {
	return piece{cursor, strings.TrimPrefix(typ, "hub."), data}.append(b)
}

// AppendPlace implements delivery.Encoding.
func (encoding) AppendPlace(b []byte, cursor string) []byte { return piece{cursor: cursor}.append(b) }

// AppendHeartbeat implements delivery.Encoding.
func (encoding) AppendHeartbeat(b []byte) []byte { return piece{}.append(b) }

// AppendEnd implements delivery.Encoding: the end of the answer is none of the stream's.
func (encoding) AppendEnd(b []byte, _ string) []byte { return b }
