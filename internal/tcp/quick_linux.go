package tcp

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Quick is a TCP connection for net/http to use, whose calls cost less; any other connection
// stays as it is. Its system calls do not wait, so the runtime is not told of them, and does not
// give the processor to another thread when one takes long. And a first read of a few bytes, by
// which net/http knows HTTP/2 (RFC 9113, section 3.4), takes all that has come.
func Quick(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	q := &quick{Conn: tcp, raw: raw}
	q.receives, q.sends = q.receive, q.send
	return q
}

// sniffed is how many bytes a first read asks for, at most, that takes all. Nothing of it is left
// when its request is served: the next read has room for the rest.
const sniffed = 64

type quick struct {
	// Static.
	net.Conn
	raw             syscall.RawConn
	receives, sends func(fd uintptr) (done bool) // else they are called again, when the socket is ready

	reading sync.Mutex
	// Guarded by reading.
	begun bool
	early *[InputSize]byte // what the first read took; nil: nothing is left of it
	rest  []byte           // of early
	to    []byte
	read  int
	why   error

	writing sync.Mutex
	// Guarded by writing.
	from  []byte
	wrong error
}

// NetConn is the socket, as of [crypto/tls.Conn].
func (q *quick) NetConn() net.Conn { return q.Conn }

// Read implements net.Conn.
func (q *quick) Read(p []byte) (n int, err error) {
	q.reading.Lock()
	defer q.reading.Unlock()
	if len(q.rest) == 0 {
		q.to, q.read, q.why = p, 0, nil
		err := q.raw.Read(q.receives)
		q.to = nil
		switch {
		case err != nil:
			return 0, q.failed("read", err)
		case q.why != nil:
			return 0, q.failed("read", q.why)
		case len(q.rest) == 0 && q.read == 0 && len(p) > 0:
			return 0, io.EOF
		case len(q.rest) == 0:
			return q.read, nil
		}
	}
	n = copy(p, q.rest)
	if q.rest = q.rest[n:]; len(q.rest) == 0 {
		Inputs.Put(q.early)
		q.early = nil
	}
	return n, nil
}

// receive reads what has come, the first time all of it.
func (q *quick) receive(fd uintptr) (done bool) {
	if q.begun || len(q.to) > sniffed {
		q.read, q.why = receive(int(fd), q.to)
	} else {
		buf := Inputs.Get().(*[InputSize]byte) // not while it waits
		n, err := receive(int(fd), buf[:])
		if n == 0 {
			Inputs.Put(buf)
		} else {
			q.early, q.rest = buf, buf[:n]
		}
		q.why = err
	}
	done = q.why != ErrFull
	q.begun = q.begun || done
	return done
}

// Write implements net.Conn.
func (q *quick) Write(p []byte) (int, error) {
	q.writing.Lock()
	defer q.writing.Unlock()
	q.from, q.wrong = p, nil
	err := q.raw.Write(q.sends)
	n := len(p) - len(q.from)
	q.from = nil
	if err == nil {
		err = q.wrong
	}
	return n, q.failed("write", err)
}

// send writes what there is room for.
func (q *quick) send(fd uintptr) (done bool) {
	for len(q.from) > 0 {
		n, err := send(int(fd), q.from)
		if err == ErrFull {
			return false
		}
		if err != nil {
			q.wrong = err
			return true
		}
		q.from = q.from[n:]
	}
	return true
}

// failed is an error as package net has it: net/http tells some from others.
func (q *quick) failed(op string, err error) error {
	switch err := err.(type) {
	case nil:
		return nil
	case *net.OpError: // of the wait
		err.Op = op
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: q.LocalAddr(), Addr: q.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}
