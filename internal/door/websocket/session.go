package websocket

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/client"
	"realtimehub/internal/door/socket"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

const (
	commandTime = 15 * time.Second // for one, whatever it has to wait for
	mostTold    = 16               // faults of one command
)

// session does what the client of one connection says.
type session struct {
	door   *Door // static
	socket socket.Session
}

// Said does what a text says: each line is a command, and is answered before the next is done. One
// without a number is answered only if it fails: an answer costs more than most commands.
func (s *session) Said(text []byte) {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) > 0 && !s.socket.Over() {
			number, err := s.command(line)
			if err != nil && problem.Of(err).Status == http.StatusInternalServerError {
				s.door.logger.Error("command failed", "tenant", s.socket.Conn.Tenant, "connection", s.socket.Conn.ID, "err", err)
			}
			if number != nil || err != nil {
				s.socket.Send(answer(number, err))
			}
		}
	}
}

// command does what a line says. number is what the client calls it by; nil if that is not known.
func (s *session) command(line []byte) (number []byte, err error) {
	memory := s.socket.Memory()
	defer memory.Close()
	if !memory.Use(allowance.BodyCopies * len(line)) {
		return numberIn(line), problem.ErrBodies
	}
	said, number, err := s.parse(line, memory)
	if _, acknowledges := said.(*client.Ack); s.socket.Closed() && !acknowledges {
		return nil, nil
	}
	if limit := s.door.verbs.Allow(s.socket.Person()); limit != nil {
		return number, limit
	}
	if err != nil {
		return number, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	return number, said.Do(ctx, s.door.verbs, s.socket.Conn)
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
		token.Place = s.socket.Place
	}
	strictjson.Value(line).Object(func(field []byte, v strictjson.Value) {
		if name := string(field); name != "n" && name != "do" && !faults.Full() {
			said.Field(&faults, name, v)
		}
	})
	return said, number, faults.Err()
}

// numberIn is the number in a line that is not to be done; nil if that is not known. Nobody is charged
// for reading it: that waits for nothing, and nothing is kept.
func numberIn(line []byte) (number []byte) {
	strictjson.Object(line, func(field []byte, v strictjson.Value) {
		if string(field) == "n" {
			number = numberOf(v)
		}
	})
	return number
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
		return socket.AppendText(nil, append(text, `,"ok":true}`...))
	}
	if faults := problem.Fields(err); len(faults) > mostTold {
		errs := make([]error, mostTold)
		for i := range errs {
			errs[i] = faults[i]
		}
		err = errors.Join(errs...)
	}
	text = append(append(text, `,"problem":`...), problem.JSON(err)...)
	return socket.AppendText(nil, append(text, '}'))
}
