package engine

import (
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/tcp"
)

// maxInput is how many bytes a client may send on its stream: none make sense.
const maxInput = 64 << 10

// buffers are for who publishes and writes inline.
var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// Takes says whether [Engine.Serve] takes a request's socket, unless that fails. Else it
// keeps the handler, and net/http the request, as long as the stream is open.
func (e *Engine) Takes(r *http.Request) bool {
	return !e.cfg.Plain && r.Method == http.MethodGet && r.ProtoMajor == 1 && r.Body == http.NoBody && tcp.CanTake(r)
}

// take takes the request's socket away from net/http; false leaves the request as it was. early
// is what came in behind the request.
func (e *Engine) take(w http.ResponseWriter, r *http.Request, s *Stream) (early []byte, taken bool) {
	if !e.Takes(r) {
		return nil, false
	}
	return e.poller.Take(w, r, &s.socket, s.key)
}

// head is an answer's head as net/http writes it, for a body in chunks. HTTP/1.0 has
// none: there the body ends with the connection.
func head(r *http.Request, h http.Header) []byte {
	b := make([]byte, 0, 320)
	if r.ProtoAtLeast(1, 1) {
		b = append(b, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: "...)
	} else {
		b = append(b, "HTTP/1.0 200 OK\r\nDate: "...)
	}
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	for name, values := range h {
		for _, value := range values {
			if !strings.ContainsAny(value, "\r\n") {
				b = append(append(b, "\r\n"...), name...)
				b = append(append(b, ": "...), value...)
			}
		}
	}
	return append(b, "\r\n\r\n"...)
}

// write writes all that is pending without waiting. Its caller has the claim,
// and gives it away: to epoll when the socket is full, to nobody when nothing is
// owed, or for good. buf has room for a chunk; nil borrows one when it is needed.
func (s *Stream) write(buf []byte) {
	var borrowed *[chunk]byte
	room := func() []byte {
		if buf == nil {
			borrowed = buffers.Get().(*[chunk]byte)
			buf = borrowed[:]
		}
		return buf
	}
	why := s.writeAll(room)
	if borrowed != nil {
		buffers.Put(borrowed)
	}
	if why != errHeld {
		s.end(why)
	}
}

// errHeld says that the stream lives on.
var errHeld = errors.New("held")

func (s *Stream) writeAll(room func() []byte) error {
	for {
		s.mu.Lock()
		if s.abrupt {
			defer s.mu.Unlock()
			return s.brokenLocked()
		}
		if s.input {
			s.input = false
			if s.talk != nil {
				s.readLocked(nil)
				s.mu.Unlock()
				continue
			}
			s.mu.Unlock()
			if err := s.discard(); err != nil {
				return err
			}
			continue
		}
		data := s.peekLocked(room)
		if len(data) == 0 {
			if s.closed {
				held := s.leaveLocked()
				s.mu.Unlock()
				if held {
					return errHeld
				}
				return nil
			}
			s.state = idle
			s.hungryLocked()
			s.mu.Unlock()
			return errHeld
		}
		s.state = writing
		s.mu.Unlock()

		n, err := s.socket.Send(data)

		s.mu.Lock()
		w := s.advanceLocked(n)
		s.keepSealedLocked()
		if err == nil && n == len(data) {
			s.mu.Unlock()
			s.tally().count(w)
			continue
		}
		s.tally().count(w)
		if err != nil && err != tcp.ErrFull {
			s.mu.Unlock()
			return s.lost(err)
		}
		if s.input || s.abrupt {
			s.mu.Unlock()
			continue
		}
		// Arm, then look again: changing the entry makes epoll do so. Under mu,
		// since the claim is epoll's at once.
		s.state = blocked
		s.boundLocked()
		s.lingerLocked()
		err = s.engine.poller.AwaitRoom(&s.socket, s.key)
		if err != nil {
			s.state = writing
		}
		s.mu.Unlock()
		if err != nil {
			return ErrGone
		}
		return errHeld
	}
}

// lost tells a client that does not read, which the kernel gives up on after a
// time, from one that left.
func (s *Stream) lost(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == tcp.ErrTimedOut && s.owed > 0:
		return ErrSlow
	case err == tcp.ErrTimedOut, err == tcp.ErrUnreachable:
		return ErrVanished
	case err == tcp.ErrTooMuch:
		return ErrNoisy
	}
	return ErrGone
}

// discard reads what came in, which would turn our close into a reset.
func (s *Stream) discard() error {
	for {
		n, err := s.socket.Discard()
		if err == tcp.ErrFull {
			return nil
		}
		if err != nil {
			return s.lost(err)
		}
		if n == 0 {
			return ErrGone // a client that only closes its half is taken as leaving, too
		}
		if s.received += uint32(n); s.received > maxInput {
			return ErrNoisy
		}
	}
}

// told gives the streams of which epoll tells to their writers, and has those read that listen.
func (e *Engine) told(events []tcp.Event) {
	var lists [maxShards]list
	for _, event := range events {
		if s := e.at(event.Key); s != nil && s.signalled(event.Input, event.HungUp) {
			lists[s.shard.index].add(s)
		}
	}
	for i, sh := range e.shards {
		sh.push(&lists[i])
	}
	runtime.Gosched() // who reads is done before there are more
}

// signalled is epoll's word that there is input, an end or an error, or else room
// to write. It returns whether the claim passed to the caller. Of a socket that could
// not be taken after all a last word may come late: the plain path has its own.
func (s *Stream) signalled(input, hungUp bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake != nil {
		return false
	}
	if s.talk != nil {
		s.talk.hungUp = s.talk.hungUp || hungUp
		if s.state != starting {
			if input && s.state != ended {
				s.readLocked(nil)
			}
			return s.claimLocked(blocked)
		}
	}
	s.input = s.input || input
	return input && s.claimLocked(idle) || s.claimLocked(blocked)
}
