package websocket

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gobwas/ws"

	"realtimehub/internal/allowance"
	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

const (
	commandTime = 15 * time.Second // for one, whatever it has to wait for
	mostTold    = 16               // faults of one command
)

// session listens to the client of one connection. All of it is the goroutine's that reads.
type session struct {
	// Static.
	door   *Door
	conn   *delivery.Connection
	holder event.TenantProfile // pays for what has not come whole
	place  string              // the client's address

	reader reader
	memory *allowance.Call // nil: nothing is kept
	pong   []byte          // a frame for the newest ping of what is being read
	over   bool            // nothing more is listened to
}

// Received implements engine.Input.
func (s *session) Received(p []byte) {
	if s.ended() {
		return
	}
	bad := s.reader.read(p, s)
	if bad == nil && !s.pay() {
		bad = errMemory
	}
	if s.pong != nil {
		s.send(s.pong)
		s.pong = nil
	}
	if bad != nil && !s.over {
		reason := delivery.CloseProtocol
		if bad == errMemory {
			reason = delivery.CloseCapacity
		}
		s.leave(reason, bad.code, bad.reason)
	}
}

// Ended implements engine.Input.
func (s *session) Ended() {
	s.reader = reader{}
	s.pay()
}

// ended says that nothing is listened to any more: a client has no say after hub.closing.
func (s *session) ended() bool { return s.over || s.conn.Stream.Closed() }

// pay counts what is kept of what has not come whole.
func (s *session) pay() bool {
	kept := s.reader.kept()
	if kept == 0 {
		if s.memory != nil {
			s.memory.Close()
			s.memory = nil
		}
		return true
	}
	if s.memory == nil {
		s.memory = s.door.doors.Quotas.Body(s.holder)
	}
	s.memory.Back(0)
	return s.memory.Use(kept)
}

// leave ends the connection.
func (s *session) leave(reason delivery.CloseReason, code ws.StatusCode, text string) {
	s.over = true
	s.Ended()
	s.door.doors.Streams.Leave(s.conn, reason, appendClose(nil, code, text))
}

// send puts a frame on the client's stream.
func (s *session) send(frame []byte) {
	var d engine.Batch
	d.Send(s.conn.Stream, engine.NewFrame(frame, false))
	d.Flush()
}

// ping implements listener. Only the newest is answered (RFC 6455, section 5.5.3).
func (s *session) ping(payload []byte) {
	s.pong = append(appendHead(s.pong[:0], ws.OpPong, len(payload)), payload...)
}

// close implements listener: the client's close frame is answered with its code (RFC 6455, section
// 5.5.1).
func (s *session) close(code ws.StatusCode) {
	s.over, s.pong = true, nil
	end := appendHead(nil, ws.OpClose, 0)
	if code != ws.StatusNoStatusRcvd {
		end = appendClose(nil, code, "")
	}
	s.door.doors.Streams.Leave(s.conn, delivery.CloseClient, end)
}

// message implements listener: each line is a command, and is answered before the next is done.
func (s *session) message(text []byte) {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) > 0 && !s.ended() {
			number, err := s.command(line)
			if err != nil && problem.Of(err).Status == http.StatusInternalServerError {
				s.door.logger.Error("command failed", "tenant", s.conn.Tenant, "connection", s.conn.ID, "err", err)
			}
			s.send(answer(number, err))
		}
	}
}

// command does what a line says. number is what the client calls it by; nil if that is not known.
func (s *session) command(line []byte) (number []byte, err error) {
	memory := s.door.doors.Quotas.Body(s.holder)
	defer memory.Close()
	if !memory.Use(allowance.BodyCopies * len(line)) {
		return nil, problem.ErrBodies
	}
	said, number, err := s.parse(line, memory)
	if limit := s.door.verbs.Allow(s.person()); limit != nil {
		return number, limit
	}
	if err != nil {
		return number, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	return number, said.Do(ctx, s.door.verbs, s.conn)
}

// person is who the connection is of.
func (s *session) person() event.TenantProfile {
	return event.TenantProfile{Tenant: s.conn.Tenant, Profile: s.conn.Profile}
}

// parse reads a line: its "n" and "do", and the fields of its command, wherever they stand.
func (s *session) parse(line []byte, memory *allowance.Call) (said client.Command, number []byte, err error) {
	faults := problem.Faults{Room: memory.Use}
	name := ""
	err = strictjson.Object(line, func(field []byte, v strictjson.Value) {
		switch string(field) {
		case "n":
			if number = numberOf(v); number == nil {
				faults.Add(problem.CodeInvalidField, "n", "must be a whole number of up to 15 digits")
			}
		case "do":
			name = faults.Text(problem.CodeInvalidField, "do", v)
		}
	})
	if err != nil {
		return nil, nil, &problem.FieldError{Code: problem.CodeMalformedJSON, Field: "", Index: -1, Detail: err.Error()}
	}
	if said = client.New(name); said == nil {
		if !faults.Within("do") {
			faults.Add(problem.CodeInvalidField, "do", "must be %s", client.Names)
		}
		return nil, number, faults.Err()
	}
	if token, ok := said.(*client.Token); ok {
		token.Place = s.place
	}
	strictjson.Value(line).Object(func(field []byte, v strictjson.Value) {
		if name := string(field); name != "n" && name != "do" && !faults.Full() {
			said.Field(&faults, name, v)
		}
	})
	return said, number, faults.Err()
}

// numberOf is a number by which a client knows its command again; nil if v is none.
func numberOf(v strictjson.Value) []byte {
	if len(v) > 15 {
		return nil
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return nil
		}
	}
	return bytes.Clone(v)
}

// answer is a frame that says what came of a command.
func answer(number []byte, err error) []byte {
	if number == nil {
		number = []byte("null")
	}
	text := append([]byte(`{"n":`), number...)
	if err == nil {
		return appendText(nil, append(text, `,"ok":true}`...))
	}
	if faults := problem.Fields(err); len(faults) > mostTold {
		errs := make([]error, mostTold)
		for i := range errs {
			errs[i] = faults[i]
		}
		err = errors.Join(errs...)
	}
	text = append(append(text, `,"problem":`...), problem.JSON(err)...)
	return appendText(nil, append(text, '}'))
}
