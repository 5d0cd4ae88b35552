package reader

import (
	"encoding/binary"
	"fmt"

	"github.com/gobwas/ws"
)

// SmallestEvent is how many bytes the text of an event has at least: what is smaller is a
// place, a sign of life or an answer.
const SmallestEvent = 64

// frames follows the frames of a server (RFC 6455, section 5.2), and keeps none of their
// payload.
type frames struct {
	head   [10]byte // what came of a frame's head
	had    int8     // bytes of it
	left   int      // of the frame's payload
	size   int      // of all of it
	pinged bool     // the server asks for a pong
}

// feed takes the next bytes, however they are split, and returns how many events they end.
func (f *frames) feed(p []byte) (events int, err error) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, len(p))
			p, f.left = p[n:], f.left-n
		} else {
			f.head[f.had] = p[0]
			f.had++
			p = p[1:]
			if f.had < f.headSize() {
				continue
			}
			if err := f.begin(); err != nil {
				return events, err
			}
		}
		if f.left == 0 {
			if f.opcode() == ws.OpText && f.size >= SmallestEvent {
				events++
			}
			f.had = 0
		}
	}
	return events, nil
}

func (f *frames) opcode() ws.OpCode { return ws.OpCode(f.head[0] & 0x0f) }

// headSize is how long the head is, as far as it is known.
func (f *frames) headSize() int8 {
	switch {
	case f.had < 2:
		return 2
	case f.head[1] == 126:
		return 4
	case f.head[1] == 127:
		return 10
	}
	return 2
}

// begin reads a head that is whole.
func (f *frames) begin() error {
	switch f.headSize() {
	case 2:
		f.size = int(f.head[1])
	case 4:
		f.size = int(binary.BigEndian.Uint16(f.head[2:]))
	default:
		f.size = int(binary.BigEndian.Uint64(f.head[2:]))
	}
	switch op := f.opcode(); {
	case f.head[0]&0x80 == 0 || f.head[1] > 127 || f.size < 0 || f.size > maxChunk:
		return fmt.Errorf("a frame begins with % x", f.head)
	case op == ws.OpClose:
		return fmt.Errorf("closed by the server")
	case op == ws.OpPing:
		f.pinged = true
	}
	f.left = f.size
	return nil
}

// FromClient is a frame as clients send it: masked.
func FromClient(op ws.OpCode, text string) []byte {
	return ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewFrame(op, true, []byte(text))))
}
