package socket

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"time"

	"github.com/gobwas/ws"
)

// Opened is a socket that has been opened before there is a stream for it. It is the
// http.ResponseWriter of which the engine takes it.
type Opened struct {
	http.ResponseWriter
	conn net.Conn
	rw   *bufio.ReadWriter
}

// Open answers a request that [Check] has nothing against, for a client that has so much time until
// there is a stream. Who opens a socket closes it in any case; the engine takes it as its own.
func Open(w http.ResponseWriter, r *http.Request, subprotocol string, within time.Duration) *Opened {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	conn.SetDeadline(time.Now().Add(within))
	conn.Write(Head(r, subprotocol)) // if that fails, so does all that follows
	return &Opened{ResponseWriter: w, conn: conn, rw: rw}
}

// Hijack implements http.Hijacker.
func (o *Opened) Hijack() (net.Conn, *bufio.ReadWriter, error) { return o.conn, o.rw, nil }

// Close closes the socket, unless it was taken.
func (o *Opened) Close() { o.conn.Close() }

// Write sends frames.
func (o *Opened) Write(frames []byte) (int, error) { return o.conn.Write(frames) }

// First is the first text that the client sends, and false if it sends none: it has been told so
// then. What comes after it is left to be read.
func (o *Opened) First() (text []byte, ok bool) {
	var r reader
	l := &first{to: o}
	for need := 1; !l.heard && !r.closed; {
		switch _, err := o.rw.Peek(need); err {
		case nil:
		case bufio.ErrBufferFull:
			o.Write(appendClose(nil, errTooLong.code, errTooLong.reason))
			return nil, false
		default:
			return nil, false
		}
		data, _ := o.rw.Peek(o.rw.Reader.Buffered())
		size, bad := r.frame(bytes.Clone(data), l)
		switch {
		case bad != nil:
			o.Write(appendClose(nil, bad.code, bad.reason))
			return nil, false
		case size == 0:
			need = len(data) + 1
		default:
			o.rw.Discard(size)
			need = 1
		}
	}
	return l.text, l.heard
}

// first is the listener to the first text.
type first struct {
	to    *Opened
	text  []byte
	heard bool
}

func (f *first) message(text []byte)      { f.text, f.heard = bytes.Clone(text), true }
func (f *first) ping(payload []byte)      { f.to.Write(appendPong(nil, payload)) }
func (f *first) close(code ws.StatusCode) { f.to.Write(answerClose(nil, code)) }
