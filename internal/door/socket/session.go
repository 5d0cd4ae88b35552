package socket

import (
	"github.com/gobwas/ws"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
)

// Session listens to the client of one connection. All of it is the goroutine's that reads.
type Session struct {
	// Static.
	doors  *door.Opener
	conn   *delivery.Connection
	holder event.TenantProfile // pays for what has not come whole
	said   func(text []byte)

	reader reader
	memory *allowance.Call // nil: nothing is kept
	pong   []byte          // a frame for the newest ping of what is being read
	over   bool            // nothing more is listened to
}

// NewSession makes the session of a connection. said is given each text of its client, which is
// only lent; nothing more is read before it returns. holder pays for what has not come whole.
func NewSession(doors *door.Opener, conn *delivery.Connection, holder event.TenantProfile, said func(text []byte)) *Session {
	return &Session{doors: doors, conn: conn, holder: holder, said: said}
}

// Received implements engine.Input.
func (s *Session) Received(p []byte) {
	if s.Over() {
		return
	}
	bad := s.reader.read(p, s)
	if bad == nil && !s.pay() {
		bad = errMemory
	}
	if s.pong != nil {
		s.Send(s.pong)
		s.pong = nil
	}
	if bad != nil && !s.over {
		reason := delivery.CloseProtocol
		if bad == errMemory {
			reason = delivery.CloseCapacity
		}
		s.leave(reason, appendClose(nil, bad.code, bad.reason))
	}
}

// Ended implements engine.Input.
func (s *Session) Ended() {
	s.reader = reader{}
	s.pay()
}

// Over says that nothing is listened to any more: a client has no say after hub.closing.
func (s *Session) Over() bool { return s.over || s.conn.Stream.Closed() }

// pay counts what is kept of what has not come whole.
func (s *Session) pay() bool {
	kept := s.reader.kept()
	if kept == 0 {
		if s.memory != nil {
			s.memory.Close()
			s.memory = nil
		}
		return true
	}
	if s.memory == nil {
		s.memory = s.doors.Quotas.Body(s.holder)
	}
	s.memory.Back(0)
	return s.memory.Use(kept)
}

// Break ends the connection of a client that breaks the rules of its door: with last frames of the
// door's, and a close frame that says why.
func (s *Session) Break(last []byte, why string) {
	s.leave(delivery.CloseProtocol, appendClose(last, ws.StatusProtocolError, why))
}

// Leave ends the connection of a client that takes its leave in its door's own way.
func (s *Session) Leave() {
	s.leave(delivery.CloseClient, appendClose(nil, ws.StatusNormalClosure, ""))
}

func (s *Session) leave(reason delivery.CloseReason, end []byte) {
	s.over = true
	s.Ended()
	s.doors.Streams.Leave(s.conn, reason, end)
}

// Send puts a frame on the client's stream.
func (s *Session) Send(frame []byte) {
	var d engine.Batch
	d.Send(s.conn.Stream, engine.NewFrame(frame, false))
	d.Flush()
}

// message implements listener.
func (s *Session) message(text []byte) { s.said(text) }

// ping implements listener. Only the newest is answered (RFC 6455, section 5.5.3).
func (s *Session) ping(payload []byte) { s.pong = appendPong(s.pong[:0], payload) }

// close implements listener.
func (s *Session) close(code ws.StatusCode) {
	s.over, s.pong = true, nil
	s.doors.Streams.Leave(s.conn, delivery.CloseClient, answerClose(nil, code))
}
