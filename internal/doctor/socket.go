package doctor

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/gobwas/ws"
)

// upgrades says that a probe asks for a WebSocket.
func (p probe) upgrades() bool { return p.origin != "" }

// askForSocket makes a request one for a WebSocket (RFC 6455, section 4.1), as a page's.
func askForSocket(header http.Header, origin string) {
	key := make([]byte, 16)
	rand.Read(key)
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", "websocket")
	header.Set("Sec-WebSocket-Version", "13")
	header.Set("Sec-WebSocket-Key", base64.StdEncoding.EncodeToString(key))
	header.Set("Origin", origin)
}

// acceptance is what answers a request's Sec-WebSocket-Key (RFC 6455, section 4.2.2).
func acceptance(request http.Header) string {
	hash := sha1.Sum([]byte(request.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(hash[:])
}

// accepts says whether an answer is one to its request, and not to another.
func accepts(res *http.Response) bool {
	return res.Header.Get("Sec-WebSocket-Accept") == acceptance(res.Request.Header)
}

// mostMessage is how many bytes a message of a probe may have.
const mostMessage = 64 << 10

var (
	errMessage = errors.New("a message came that is larger than any of the hub's")
	errAccept  = errors.New("the answer's Sec-WebSocket-Accept is not for this request")
)

// readSocket takes a WebSocket's events until it ends.
func (t *trial) readSocket(conn io.ReadWriter, p probe) {
	in := bufio.NewReader(&counter{conn, &t.bytes, &t.body})
	var message []byte
	for {
		head, err := ws.ReadHeader(in)
		if err == nil && head.Length > int64(mostMessage-len(message)) {
			err = errMessage
		}
		payload := make([]byte, min(max(head.Length, 0), mostMessage))
		if err == nil {
			_, err = io.ReadFull(in, payload)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.err = err
			}
			return
		}
		switch head.OpCode {
		case ws.OpPing:
			ws.WriteFrame(conn, ws.MaskFrame(ws.NewPongFrame(payload)))
		case ws.OpClose:
			return
		case ws.OpText, ws.OpContinuation:
			if message = append(message, payload...); !head.Fin {
				continue
			}
			var event struct {
				Event string
				Data  json.RawMessage
			}
			if json.Unmarshal(message, &event) == nil && t.take(event.Event, event.Data, p) {
				return
			}
			message = message[:0]
		}
	}
}
