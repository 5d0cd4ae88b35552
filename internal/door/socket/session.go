package socket

import (
	"fmt"
	"runtime"
	"time"

	"github.com/gobwas/ws"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
)

// Talk is who does what a client says.
type Talk interface {
	// Said is given each text, which is only lent. Nothing more is read before it returns.
	Said(text []byte)
}

// Session listens to the client of one connection. All of it is the goroutine's that reads. It is
// a part of what its door has of a connection, since there may be very many.
type Session struct {
	// Static.
	Conn  *delivery.Connection
	Place string // the client's address
	doors *door.Opener
	talk  Talk
	open  bool // nobody is proven: the place pays

	over    bool     // nothing more is listened to
	partial *partial // nil: nothing is kept
	pong    []byte   // a frame for the newest ping of what is being read
}

// partial is what is kept of a message that has not come whole.
type partial struct {
	reader reader
	memory *allowance.Call
	late   *time.Timer
}

// NewSession makes the session of a connection whose client, at a place, is proven to be who it
// says, or not.
func NewSession(doors *door.Opener, conn *delivery.Connection, place string, proven bool, talk Talk) Session {
	return Session{Conn: conn, Place: place, doors: doors, talk: talk, open: !proven}
}

// Person is who the connection is of.
func (s *Session) Person() event.TenantProfile {
	return event.TenantProfile{Tenant: s.Conn.Tenant, Profile: s.Conn.Profile}
}

// Memory is for what is made of what the client says; who it is pays, as for the body of a call.
func (s *Session) Memory() *allowance.Call {
	if s.open {
		return s.doors.Quotas.Body(event.TenantProfile{Tenant: s.Place})
	}
	return s.doors.Quotas.Body(s.Person())
}

// Received implements engine.Input.
func (s *Session) Received(p []byte) {
	if s.over {
		return
	}
	var r reader
	if s.partial != nil {
		r = s.partial.reader
	}
	bad := r.read(p, s)
	if bad == nil {
		bad = s.keep(r)
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
func (s *Session) Ended() { s.forget() }

// Over says that nothing is listened to any more.
func (s *Session) Over() bool { return s.over }

// Closed says that the client has no say any more, since hub.closing, but to acknowledge what it was sent.
func (s *Session) Closed() bool { return s.Conn.Stream.Closed() }

// messageTime is how long a message may be on its way, as a request may be with its body.
const messageTime = 30 * time.Second

// keep keeps what has not come whole, for so long, and has it paid for.
func (s *Session) keep(r reader) *fault {
	if r.kept() == 0 && !r.fragmented || s.over {
		s.forget()
		return nil
	}
	if s.partial == nil {
		s.partial = &partial{memory: s.Memory(), late: time.AfterFunc(messageTime, s.late)}
	}
	s.partial.reader = r
	s.partial.memory.Back(0)
	if !s.partial.memory.Use(r.kept()) {
		return errMemory
	}
	return nil
}

// forget gives back what is kept.
func (s *Session) forget() {
	if s.partial != nil {
		s.partial.late.Stop()
		s.partial.memory.Close()
		s.partial = nil
	}
}

// late ends the connection of a client whose message has not come whole. A timer calls it: so all
// else is forgotten once nothing is received any more.
func (s *Session) late() {
	end := appendClose(nil, ws.StatusPolicyViolation, fmt.Sprintf("a message has not come whole within %v", messageTime))
	s.doors.Streams.Leave(s.Conn, delivery.CloseProtocol, end)
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
	s.forget()
	s.doors.Streams.Leave(s.Conn, reason, end)
}

// Send puts a frame on the client's stream. Who else can run does so before the client is listened
// to any further: a short command may have a long answer.
func (s *Session) Send(frame []byte) {
	var d engine.Batch
	d.Send(s.Conn.Stream, engine.NewFrame(frame, false))
	d.Flush()
	runtime.Gosched()
}

// message implements listener.
func (s *Session) message(text []byte) {
	s.forget() // of the next one the time begins anew
	s.talk.Said(text)
}

// ping implements listener. Only the newest is answered (RFC 6455, section 5.5.3).
func (s *Session) ping(payload []byte) { s.pong = appendPong(s.pong[:0], payload) }

// close implements listener.
func (s *Session) close(code ws.StatusCode) {
	s.over, s.pong = true, nil
	s.doors.Streams.Leave(s.Conn, delivery.CloseClient, answerClose(nil, code))
}
