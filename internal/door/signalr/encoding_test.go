package signalr

import (
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// Each transport carries the same records.
func TestEncoding(t *testing.T) {
	is := is.New(t)
	const paid = `{"type":1,"target":"order.paid","arguments":[{"id":"7"},"c1"]}` + "\x1e"
	const ready = `{"type":1,"target":"hub.ready","arguments":[{},null]}` + "\x1e"
	const ping = `{"type":6}` + "\x1e"
	const accepted = "{}\x1e"
	for transport, carried := range map[Transport]func(string) string{
		Events:  func(record string) string { return "data: " + record + "\n\n" },
		Polling: func(record string) string { return record },
		Sockets: func(record string) string { return "\x81" + string(rune(len(record))) + record },
	} {
		e := Encoding{transport}
		is.Equal(string(e.AppendEvent(nil, "c1", "order.paid", []byte(`{"id":"7"}`))), carried(paid))
		if transport == Sockets {
			is.Equal(string(e.AppendWord(nil, "", "hub.ready", time.Second, []byte(`{}`))), carried(ready))
		} else {
			is.Equal(string(e.AppendWord(nil, "", "hub.ready", time.Second, []byte(`{}`))), carried(accepted+ready))
		}
		is.Equal(string(e.AppendHeartbeat(nil)), carried(ping))
		is.Equal(string(e.AppendPlace(nil, "c1")), carried(ping))
	}
}

// The end says whether the client is to come back.
func TestEncodingEnd(t *testing.T) {
	is := is.New(t)
	e := Encoding{Polling}
	for _, reason := range []string{"drain", "slow", "expired", "capacity", "unacked", "unavailable", "pending"} {
		is.Equal(string(e.AppendEnd(nil, reason)), `{"type":7,"allowReconnect":true}`+"\x1e")
	}
	for _, reason := range []string{"kicked", "replaced", "refused"} {
		is.Equal(string(e.AppendEnd(nil, reason)), `{"type":7,"error":"`+reason+`"}`+"\x1e")
	}
}

// The head of a frame says its length in the shortest of three ways (RFC 6455 §5.2).
func TestFrame(t *testing.T) {
	is := is.New(t)
	for size, head := range map[int]string{0: "\x81\x00", 125: "\x81\x7d", 126: "\x81\x7e\x00\x7e", 65535: "\x81\x7e\xff\xff", 65536: "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"} {
		text := strings.Repeat("x", size)
		is.Equal(string(appendFrame(nil, []byte(text))), head+text)
	}
}
