package socket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gobwas/ws"
)

// Opened is a socket that has been opened before there is a stream for it. It is the
// http.ResponseWriter of which the engine takes it.
type Opened struct {
	http.ResponseWriter
	conn  net.Conn
	rw    *bufio.ReadWriter
	taken bool
}

// Open answers a request that [Check] has nothing against, for a client that has so much time until
// there is a stream. Who opens a socket closes it in any case; the engine takes it as its own.
func Open(w http.ResponseWriter, r *http.Request, subprotocol string, within time.Duration) *Opened {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // nobody is there to be told
	}
	conn.SetDeadline(time.Now().Add(within))
	o := &Opened{ResponseWriter: w, conn: conn, rw: rw}
	o.Send(Head(r, subprotocol))
	return o
}

// Hijack implements http.Hijacker.
func (o *Opened) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	o.taken = true
	return o.conn, o.rw, nil
}

// Close closes the socket, unless it was taken.
func (o *Opened) Close() {
	if !o.taken {
		o.conn.Close()
	}
}

// Send sends frames.
func (o *Opened) Send(frames []byte) { o.conn.Write(frames) } // if that fails, so does all that follows

// How long a client has for its own end, once it was told ours.
const (
	farewell      = 5 * time.Second
	shortFarewell = 100 * time.Millisecond
)

// End sends last frames, and reads what the client has sent to its end: or the kernel would reset the
// connection, and with it what the client is told.
func (o *Opened) End(last []byte) { o.end(last, farewell) }

// EndSoon is End of a socket that nobody has paid for. It has left the lobby as well, so it does not
// wait long.
func (o *Opened) EndSoon(last []byte) { o.end(last, shortFarewell) }

func (o *Opened) end(last []byte, wait time.Duration) {
	o.Send(last)
	if half, ok := o.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		o.conn.SetDeadline(time.Now().Add(wait))
		io.Copy(io.Discard, o.conn)
	}
}

// Errors of clients that send no first text.
var (
	ErrLeft   = errors.New("the client has left")
	ErrSilent = errors.New("the client has not sent its first text in time")
)

// First is the first text that the client sends, in frames of what net/http's buffer has room for.
// What comes after it is left to be read. The error is ErrLeft, ErrSilent, or how the client broke
// the protocol, which it has been told then.
func (o *Opened) First() (text []byte, err error) {
	var r reader
	l := &first{to: o}
	for need := 1; !l.heard && !r.closed; {
		_, err := o.rw.Peek(need)
		switch {
		case err == nil:
		case err == bufio.ErrBufferFull:
			return nil, o.broken(errFirst)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, ErrSilent
		default:
			return nil, ErrLeft
		}
		data, _ := o.rw.Peek(o.rw.Reader.Buffered())
		size, bad := r.frame(data, l) // which it changes once it is whole
		switch {
		case bad != nil:
			return nil, o.broken(bad)
		case size == 0:
			need = len(data) + 1
		default:
			o.rw.Discard(size)
			need = 1
		}
	}
	if !l.heard {
		return nil, ErrLeft
	}
	return l.text, nil
}

func (o *Opened) broken(bad *fault) error {
	o.End(appendClose(nil, bad.code, bad.reason))
	return errors.New(bad.reason)
}

// first is the listener to the first text.
type first struct {
	to    *Opened
	text  []byte
	heard bool
}

func (f *first) message(text []byte)      { f.text, f.heard = bytes.Clone(text), true }
func (f *first) ping(payload []byte)      { f.to.Send(appendPong(nil, payload)) }
func (f *first) close(code ws.StatusCode) { f.to.End(answerClose(nil, code)) }
