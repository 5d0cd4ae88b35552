package tcp

import (
	"errors"
	"sync"
)

// Errors of a [Socket]'s calls, the same on every system.
var (
	ErrFull        = errors.New("the socket would block")
	ErrTimedOut    = errors.New("the peer does not acknowledge")
	ErrUnreachable = errors.New("the peer cannot be reached")
	ErrTooMuch     = errors.New("the peer has its session keep too much")
)

// InputSize is how many bytes are read at once.
const InputSize = 4 << 10

// Inputs are what is read into, each a *[InputSize]byte.
var Inputs = sync.Pool{New: func() any { return new([InputSize]byte) }}

// Socket is one that was taken, whose calls never wait; the zero value was not. One goroutine at
// a time sends, and one receives.
type Socket struct {
	records *records // nil: clear text
	fd      int32
	taken   bool
}

// Taken says that there is a socket.
func (s *Socket) Taken() bool { return s.taken }

// Secure says that it is of a TLS session, which may have read what no poller tells of.
func (s *Socket) Secure() bool { return s.records != nil }

// Send returns how much of data was sent, with [ErrFull] if there was no room for the rest.
func (s *Socket) Send(data []byte) (int, error) {
	if s.records != nil {
		return s.records.send(data)
	}
	return send(int(s.fd), data)
}

// Sealed is how much of what was to be sent next is in a record already, which is not sent whole.
func (s *Socket) Sealed() int {
	if s.records == nil {
		return 0
	}
	return s.records.sealed
}

// Receive reads what came in: 0 is the end, [ErrFull] nothing.
func (s *Socket) Receive(p []byte) (int, error) {
	if s.records != nil {
		return s.records.receive(p)
	}
	return receive(int(s.fd), p)
}

// Discard drops up to 64 KiB of what came in, of TLS what one record has: 0 is the end, [ErrFull]
// nothing.
func (s *Socket) Discard() (int, error) {
	if s.records == nil {
		return discard(int(s.fd))
	}
	buf := Inputs.Get().(*[InputSize]byte)
	defer Inputs.Put(buf)
	return s.records.receive(buf[:])
}

// End tells a session's client that nothing comes any more, if there is room for it.
func (s *Socket) End() {
	if s.records != nil {
		s.records.end()
	}
}

// Shutdown ends our half of the socket.
func (s *Socket) Shutdown() {
	s.End()
	shutdown(int(s.fd))
}

// Close closes the socket after what came in is dropped: unread input would make it a reset, and
// the client might lose the last words.
func (s *Socket) Close() { closeSocket(int(s.fd)) }
