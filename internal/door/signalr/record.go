package signalr

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

const (
	separator = 0x1E     // ends each record
	maxRecord = 16 << 10 // bytes of a client's record
)

// Errors of what is no record.
var (
	errTorn = errors.New("does not end with 0x1E")
	errLong = fmt.Errorf("has more than %d bytes", maxRecord)
)

// Next takes the first record off b: without the separator, and what follows it.
func Next(b []byte) (record, rest []byte, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxRecord+1)], separator)
	switch {
	case end >= 0:
		return b[:end], b[end+1:], nil
	case len(b) > maxRecord:
		return nil, nil, errLong
	}
	return nil, nil, errTorn
}

// Type says what a message is (HubProtocol.md, "JSON Encoding"). 8 and 9 are of stateful reconnect,
// which is not offered.
type Type int

// The types of messages.
const (
	Handshake        Type = 0 // has no type: the first that a client sends
	Invocation       Type = 1
	StreamItem       Type = 2
	Completion       Type = 3
	StreamInvocation Type = 4
	CancelInvocation Type = 5
	Ping             Type = 6
	Close            Type = 7
)

// Message is what a client sends. It aliases what it was read from.
type Message struct {
	Type      Type
	ID        string           // of an invocation that is to be completed; empty: nobody waits
	Target    string           // the method
	Arguments strictjson.Value // an array
	Streams   bool             // some arguments are streams, which follow
}

// Parse reads one record strictly. An error is of problem.Faults.
func Parse(record []byte) (Message, error) {
	m := Message{Type: -1}
	var faults problem.Faults
	protocol, version := "", int64(0)
	err := strictjson.Object(record, func(name []byte, v strictjson.Value) {
		switch string(name) {
		case "type":
			m.Type = Type(number(&faults, "type", v))
		case "invocationId":
			m.ID = faults.Text(problem.CodeInvalidField, "invocationId", v)
		case "target":
			m.Target = faults.Text(problem.CodeInvalidField, "target", v)
		case "arguments":
			m.Arguments = v
		case "streamIds":
			v.Array(func(int, strictjson.Value) { m.Streams = true })
		case "protocol":
			protocol = faults.Text(problem.CodeInvalidField, "protocol", v)
		case "version":
			version = number(&faults, "version", v)
		} // a later version may say more
	})
	switch {
	case err != nil:
		return m, &problem.FieldError{Code: problem.CodeMalformedJSON, Index: -1, Detail: err.Error()}
	case m.Type == -1 && protocol != "":
		m.Type = Handshake
		checkHandshake(&faults, protocol, version)
	case m.Type == Invocation || m.Type == StreamInvocation:
		checkInvocation(&faults, m)
	case m.Type < Invocation && !faults.Within("type"):
		faults.Add(problem.CodeInvalidField, "type", "must be the number of a message's type")
	}
	return m, faults.Err()
}

func checkHandshake(f *problem.Faults, protocol string, version int64) {
	if protocol != "json" {
		f.Add(problem.CodeInvalidField, "protocol", "must be json")
	}
	if version != 1 && !f.Within("version") {
		f.Add(problem.CodeInvalidField, "version", "must be 1")
	}
}

func checkInvocation(f *problem.Faults, m Message) {
	if m.Target == "" && !f.Within("target") {
		f.Add(problem.CodeInvalidField, "target", "is needed: the name of a method")
	}
	if !m.Arguments.Array(func(int, strictjson.Value) {}) {
		f.Add(problem.CodeInvalidField, "arguments", "must be an array")
	}
	if m.Type == StreamInvocation && m.ID == "" && !f.Within("invocationId") {
		f.Add(problem.CodeInvalidField, "invocationId", "is needed where a stream is asked for")
	}
}

// number reads a whole number that is not negative.
func number(f *problem.Faults, field string, v strictjson.Value) int64 {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n < 0 {
		f.Add(problem.CodeInvalidField, field, "must be a whole number, 0 or more")
		return 0
	}
	return n
}

// accepted is the record that answers a handshake.
const accepted = "{}\x1e"

// appendResult appends the record that completes an invocation. result is JSON; nil: it has none.
func appendResult(b []byte, id string, result []byte) []byte {
	b = appendCompletion(b, id)
	if result != nil {
		b = append(append(b, `,"result":`...), result...)
	}
	return append(b, '}', separator)
}

// appendFailure appends the record that completes an invocation which failed.
func appendFailure(b []byte, id, why string) []byte {
	b = strictjson.AppendQuote(append(appendCompletion(b, id), `,"error":`...), why)
	return append(b, '}', separator)
}

func appendCompletion(b []byte, id string) []byte {
	return strictjson.AppendQuote(append(b, `{"type":3,"invocationId":`...), id)
}

// appendClose appends the record that ends a connection for an error, after which a client does not
// come back by itself.
func appendClose(b []byte, why string) []byte {
	b = strictjson.AppendQuote(append(b, `{"type":7,"error":`...), why)
	return append(b, '}', separator)
}
