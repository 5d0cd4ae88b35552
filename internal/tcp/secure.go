package tcp

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Secure is for the listener of a server with TLS: it lets a [Poller] take the sockets of
// HTTP/1.1, too. The session stays crypto/tls's. Once its socket is taken it neither waits nor
// needs a goroutine: its records are written, and read, as the socket allows.
func Secure(listener net.Listener) net.Listener { return secure{listener} }

type secure struct{ net.Listener }

// Accept implements net.Listener.
func (l secure) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &carrier{c}, nil
}

// carrier carries the records of a session: net/http's connection, and once its socket is taken
// [records].
type carrier struct{ net.Conn }

// NetConn is the connection, as of [tls.Conn].
func (c *carrier) NetConn() net.Conn { return c.Conn }

// records are those of a session whose socket is taken.
type records struct {
	net.Conn // nil: a session calls what is here, and no more
	fd       int32
	held     *atomic.Int64 // bytes of the rests of all
	session  *tls.Conn
	sealed   int // bytes of what is sent next that are in a record, which is not sent whole; of who sends
	unread   int // bytes that came since the session last had some for who receives; theirs

	mu sync.Mutex
	// Guarded by mu.
	rest []byte // of records, what the socket had no room for
	over bool   // nothing is sent any more
}

const (
	maxRecord = 16 << 10      // bytes of plaintext (RFC 8446, section 5.1)
	mostRest  = 2 * maxRecord // our record, and answers to a client that changes its keys over and over

	// mostUnread is a whole record, what is read behind it, and little that is for the session itself:
	// that would keep a message of 256 KiB until it ends.
	mostUnread = maxRecord + 2*InputSize
)

// Write implements net.Conn: it sends a record, and keeps what there is no room for. It may be
// called by who writes and by who reads.
func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return 0, net.ErrClosed
	}
	n := 0
	if len(r.rest) == 0 {
		sent, err := send(int(r.fd), p)
		if err != nil && err != ErrFull {
			return 0, err
		}
		n = sent
	}
	if len(r.rest)+len(p)-n > mostRest {
		return n, ErrTooMuch
	}
	r.keepLocked(append(r.rest, p[n:]...))
	return len(p), nil
}

// keepLocked has so much left to be sent.
func (r *records) keepLocked(rest []byte) {
	r.held.Add(int64(len(rest) - len(r.rest)))
	if len(rest) == 0 {
		rest = nil
	}
	r.rest = rest
}

// flush sends what was left; ErrFull when something still is.
func (r *records) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.rest) > 0 {
		n, err := send(int(r.fd), r.rest)
		if err != nil {
			return err
		}
		r.keepLocked(r.rest[n:])
	}
	return nil
}

// Read implements net.Conn. It reads little at once, or the session would keep what is behind a record.
func (r *records) Read(p []byte) (int, error) {
	n, err := receive(int(r.fd), p[:min(len(p), InputSize)])
	r.unread += n
	switch {
	case err == ErrFull:
		return 0, nothingYet{}
	case n == 0 && err == nil:
		return 0, io.EOF
	case r.unread > mostUnread:
		return 0, ErrTooMuch
	default:
		return n, err
	}
}

// nothingYet is a net.Error after which a session can be read on.
type nothingYet struct{}

func (nothingYet) Error() string   { return "nothing has come" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }

// SetWriteDeadline implements net.Conn: nothing waits.
func (*records) SetWriteDeadline(time.Time) error { return nil }

// send is the socket's send, in records: what it says was sent is in records that are sent whole.
func (r *records) send(data []byte) (sent int, err error) {
	for {
		if err := r.flush(); err != nil {
			return sent, err
		}
		sent += r.sealed
		r.sealed = 0
		if sent == len(data) {
			return sent, nil
		}
		next := data[sent:min(len(data), sent+maxRecord)]
		if _, err := r.session.Write(next); err != nil {
			return sent, err
		}
		r.sealed = len(next)
	}
}

// receive is the socket's receive: 0 is the end, ErrFull nothing.
func (r *records) receive(p []byte) (int, error) {
	n, err := r.session.Read(p)
	switch {
	case n > 0:
		r.unread = 0
		return n, nil // an error will be there again
	case errors.Is(err, nothingYet{}):
		return 0, ErrFull
	case err == io.EOF:
		return 0, nil
	}
	return 0, err
}

// end tells the client that nothing comes any more, if there is room for it.
func (r *records) end() {
	r.session.CloseWrite()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keepLocked(nil)
	r.over = true
}

// carry has a session's records go by s, and returns the connection by which they went.
func (s *Socket) carry(from *source, held *atomic.Int64) (unused net.Conn) {
	s.records = &records{fd: s.fd, held: held, session: from.session}
	unused, from.carrier.Conn = from.carrier.Conn, s.records
	return unused
}
