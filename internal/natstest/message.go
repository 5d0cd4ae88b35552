package natstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Message is one operation of the client protocol.
// https://docs.nats.io/reference/reference-protocols/nats-protocol
type Message struct {
	Conn       int    // counts the proxy's connections, from 1
	Client     string // the client's name, as its CONNECT told
	FromServer bool
	Verb       string // PUB, HPUB, MSG, HMSG, SUB, UNSUB, INFO, CONNECT, PING, PONG, +OK or -ERR
	Subject    string // of PUB, HPUB, MSG, HMSG and SUB
	Reply      string // where the answer goes; empty: nobody waits for one
	Header     nats.Header
	Data       []byte // the payload; what follows any other verb

	raw []byte
}

// ReadsRows says whether the message asks for a tenant's rows in a table.
func (m *Message) ReadsRows() bool {
	return !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET.") && strings.HasSuffix(m.Subject, "_table") &&
		!strings.Contains(string(m.Data), "*") // which a look has
}

// readMessage reads one operation.
func readMessage(in *bufio.Reader) (*Message, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	verb, rest, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
	m := &Message{Verb: strings.ToUpper(verb), raw: line}
	args := strings.Fields(rest)
	sizes := 0 // how many of the last arguments are
	switch m.Verb {
	case "PUB", "MSG":
		sizes = 1
	case "HPUB", "HMSG":
		sizes = 2
	case "SUB":
		if len(args) > 0 {
			m.Subject = args[0]
		}
		fallthrough
	default:
		m.Data = []byte(rest)
		return m, nil
	}
	least := 1 // arguments before the reply
	if m.Verb == "MSG" || m.Verb == "HMSG" {
		least = 2 // the subscription's number
	}
	if len(args) < least+sizes {
		return nil, fmt.Errorf("not an operation: %q", line)
	}
	m.Subject = args[0]
	if len(args) > least+sizes {
		m.Reply = args[least]
	}
	total, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return nil, err
	}
	body := make([]byte, total+2)
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, err
	}
	m.raw = append(m.raw, body...)
	m.Data = body[:total]
	if sizes == 2 {
		head, err := strconv.Atoi(args[len(args)-2])
		if err != nil || head > total {
			return nil, fmt.Errorf("not an operation: %q", line)
		}
		if m.Header, err = nats.DecodeHeadersMsg(m.Data[:head]); err != nil {
			return nil, err
		}
		m.Data = m.Data[head:]
	}
	return m, nil
}

// replace gives a PUB or MSG another payload.
func (m *Message) replace(data []byte) {
	line, _, _ := bytes.Cut(m.raw, []byte("\r\n"))
	line = line[:bytes.LastIndexByte(line, ' ')]
	m.raw = fmt.Appendf(nil, "%s %d\r\n%s\r\n", line, len(data), data)
}

// hideServers removes the other servers that an INFO tells of.
func (m *Message) hideServers() {
	var info map[string]json.RawMessage
	if json.Unmarshal(m.Data, &info) != nil {
		return
	}
	delete(info, "connect_urls")
	delete(info, "ws_connect_urls")
	data, err := json.Marshal(info)
	if err == nil {
		m.Data, m.raw = data, bytes.Join([][]byte{[]byte("INFO "), data, []byte("\r\n")}, nil)
	}
}
