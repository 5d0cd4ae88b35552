package signalr

import (
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
		alive := carried(ping)
		if transport == Sockets {
			alive += "\x89\x00" // a ping that its client answers
		}
		is.Equal(string(e.AppendHeartbeat(nil)), alive)
		is.Equal(string(e.AppendPlace(nil, "c1")), alive)
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
	is.Equal(string(Encoding{Sockets}.AppendEnd(nil, "kicked")), "\x81\x1c{\"type\":7,\"error\":\"kicked\"}\x1e\x88\x08\x11\x3akicked")
}
