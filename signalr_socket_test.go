package main

import (
	"bufio"
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// handshake is the frame that a client of SignalR sends first.
var handshake = frameOf(textFrame, `{"protocol":"json","version":1}`+"\x1e")

// signalRSocket is a session over WebSocket, frame by frame.
type signalRSocket struct {
	bareSocket
	waiting []string // records that have come
}

// dialSignalR opens a socket, and sends what comes at once with the request.
func dialSignalR(t testing.TB, url, query, early string) *signalRSocket {
	t.Helper()
	s, answer := askSignalR(t, dialBare(t, url), query, early)
	if answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(answer)
	}
	return s
}

// askSignalR asks for a socket on a connection.
func askSignalR(t testing.TB, conn net.Conn, query, early string) (*signalRSocket, *http.Response) {
	t.Helper()
	fmt.Fprintf(conn, "GET /signalr?%s HTTP/1.1\r\n%s\r\n%s", query, upgradeHead, early)
	s := &signalRSocket{bareSocket: bareSocket{conn, bufio.NewReader(conn)}}
	answer, err := http.ReadResponse(s.from, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, answer
}

// record is the next record.
func (s *signalRSocket) record(t testing.TB) string {
	t.Helper()
	for len(s.waiting) == 0 {
		text := s.text(t)
		if !strings.HasSuffix(text, "\x1e") {
			t.Fatalf("a torn record: %q", text)
		}
		s.waiting = strings.Split(strings.TrimSuffix(text, "\x1e"), "\x1e")
	}
	next := s.waiting[0]
	s.waiting = s.waiting[1:]
	return next
}

// accepted shakes hands, and returns hub.ready.
func (s *signalRSocket) accepted(t testing.TB) string {
	t.Helper()
	io.WriteString(s, handshake)
	return s.ready(t)
}

// ready reads the answer to a handshake, and returns hub.ready.
func (s *signalRSocket) ready(t testing.TB) string {
	t.Helper()
	if answer := s.record(t); answer != "{}" {
		t.Fatal(answer)
	}
	ready := s.record(t)
	if !strings.HasPrefix(ready, `{"type":1,"target":"hub.ready",`) {
		t.Fatal(ready)
	}
	return ready
}

// says sends records in one text.
func (s *signalRSocket) says(records ...string) {
	io.WriteString(s, frameOf(textFrame, strings.Join(records, "\x1e")+"\x1e"))
}

const touchRecord, touchedRecord = `{"type":1,"target":"touch","invocationId":"7","arguments":[]}`, `{"type":3,"invocationId":"7"}`

// Nothing comes before the answer to the handshake; then come hub.ready and events, and what is
// asked is answered on the socket.
func TestSignalROnSocket(t *testing.T) {
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		session := h.negotiate(t, asMe)
		s := dialSignalR(t, url, session.query, "")
		is.Equal(len(h.streams.Connections("acme", nil)), 0) // until it shakes hands
		s.accepted(t)
		c := h.streams.Connections("acme", nil)
		is.Equal(len(c), 1)
		is.Equal(c[0].Transport, delivery.TransportSignalR)
		s.says(`{"type":6}`, touchRecord)
		is.Equal(s.record(t), touchedRecord)
		s.says(`{"type":1,"target":"Nothing","invocationId":"8","arguments":[]}`)
		is.True(strings.Contains(s.record(t), `"invocationId":"8","error":"UnknownField: target: there is no such method`))
		h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, "1")
		is.True(strings.HasPrefix(s.record(t), `{"type":1,"target":"a.b","arguments":[{"id":`))
		io.WriteString(s, frameOf(pingFrame, "there?"))
		is.Equal(s.next(t).Header.OpCode, ws.OpPong)
		s.says(`{"type":7}`, touchRecord) // what follows is not listened to
		is.Equal(s.closes(t), ws.StatusNormalClosure)
		eventually(t, func() bool { return len(h.streams.Connections("acme", nil)) == 0 })
	})
}

// A handshake comes whole or in pieces, with a ping ahead of it and more behind it, with the request
// or later; its client need not have negotiated.
func TestSignalRHandshakeInPieces(t *testing.T) {
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		early := frameOf(pingFrame, "") + handshake + frameOf(textFrame, touchRecord+"\x1e")
		s := dialSignalR(t, url, asMe, early)
		is.Equal(s.next(t).Header.OpCode, ws.OpPong)
		s.ready(t)
		is.Equal(s.record(t), touchedRecord)

		s = dialSignalR(t, url, asMe, "")
		s.says(`{"protocol":"json","version":1}`, touchRecord)
		s.ready(t)
		is.Equal(s.record(t), touchedRecord)

		s = dialSignalR(t, url, asMe, "")
		inPieces := frameOf(firstFragment, `{"protocol":"json",`) + frameOf(lastFragment, `"version":1}`+"\x1e")
		for i := range inPieces {
			io.WriteString(s, inPieces[i:i+1])
		}
		s.ready(t)
	})
}

// What is wrong with a handshake, or with the request for the socket, is its answer.
func TestSignalRHandshakeThatIsRefused(t *testing.T) {
	h := newTestHub(t)
	used := h.negotiate(t, asMe)
	bothWays(t, h, func(t *testing.T, url string) {
		taken := h.negotiate(t, asMe)
		dialSignalR(t, url, taken.query, "").accepted(t)
		const open = 1
		eventually(t, func() bool { return h.Stats().Streams == open }) // those of before have gone
		for name, tc := range map[string]struct{ query, sent, answer string }{
			"another protocol":    {used.query, frameOf(textFrame, `{"protocol":"messagepack","version":1}`+"\x1e"), `{"error":"InvalidField: protocol: must be json"}`},
			"another version":     {used.query, frameOf(textFrame, `{"protocol":"json","version":2}`+"\x1e"), `{"error":"InvalidField: version: must be 1"}`},
			"no handshake":        {used.query, frameOf(textFrame, touchRecord+"\x1e"), `a handshake comes first"}`},
			"no record":           {used.query, frameOf(textFrame, `{}`), `does not end with 0x1E"}`},
			"a stranger's token":  {asMe + "&id=forged", handshake, `{"error":"ConnectionNotFound: id: is not a connectionToken of this hub"}`},
			"a token that served": {taken.query, handshake, `its stream has been opened already: negotiate again"}`},
			"a bad filter":        {asMe + "&types=a%20b", handshake, `{"error":"InvalidField: types`},
			"an unread filter":    {asMe + "&types=a.*;presence=none", handshake, `{"error":"InvalidField: types`},
			"an unread token":     {asMe + "&id=%zz", handshake, `{"error":"InvalidField: id`},
		} {
			t.Run(name, func(t *testing.T) {
				is := is.New(t)
				refused := h.Stats().Refused[delivery.CloseRefused]
				s := dialSignalR(t, url, tc.query, tc.sent)
				answer := s.record(t)
				if !strings.Contains(answer, tc.answer) {
					t.Error(answer)
				}
				is.Equal(s.closes(t), ws.StatusCode(4403))
				is.Equal(h.Stats().Streams, open)
				is.Equal(h.Stats().Refused[delivery.CloseRefused], refused+1)
			})
		}
		for name, tc := range map[string]struct {
			sent string
			code ws.StatusCode
			more int64 // are counted as refused
		}{
			"binary":             {frameOf(binaryFrame, "x"), 1003, 1},
			"no mask":            {"\x81\x01x", 1002, 1},
			"more than is taken": {frameOf(textFrame, strings.Repeat(" ", 5000)), 1009, 1},
			"the end":            {frameOf(closeFrame, "\x03\xe8"), 1000, 0},
		} {
			t.Run(name, func(t *testing.T) {
				is := is.New(t)
				want := h.Stats().Refused[delivery.CloseProtocol] + tc.more
				s := dialSignalR(t, url, used.query, tc.sent)
				is.Equal(s.closes(t), tc.code)
				s.Close()
				eventually(t, func() bool { return h.Stats().Refused[delivery.CloseProtocol] == want })
			})
		}
	})
}

// A text that is no records ends the session, which is told what is wrong. What came before it is
// done, and what follows is not listened to.
func TestSignalRSocketOfWhatIsNoRecord(t *testing.T) {
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		for name, tc := range map[string]struct{ sent, why string }{
			"no separator":       {`{"type":6}`, "record 1: does not end with 0x1E"},
			"one within":         {`{"type":1,"target":"` + "\x1e" + `","arguments":[]}` + "\x1e", "record 1: "},
			"nothing":            {"\x1e", "record 1: "},
			"two in one":         {`{"type":6}{"type":6}` + "\x1e", "record 1: "},
			"nested":             {strings.Repeat(`{"x":`, 2_000) + "\x1e", "record 1: "},
			"no method":          {`{"type":1}` + "\x1e", "record 1.target: is needed: the name of a method"},
			"no type":            {`{"target":"Touch"}` + "\x1e", "record 1.type: must be the number of a message's type"},
			"a number too large": {`{"type":99999999999999999999}` + "\x1e", "record 1.type: "},
		} {
			t.Run(name, func(t *testing.T) {
				is := is.New(t)
				s := dialSignalR(t, url, asMe, "")
				s.accepted(t)
				io.WriteString(s, frameOf(textFrame, touchRecord+"\x1e"+tc.sent)+frameOf(textFrame, touchRecord+"\x1e"))
				is.Equal(s.record(t), touchedRecord)
				is.True(strings.Contains(s.record(t), `"target":"hub.closing","arguments":[{"reason":"protocol"`))
				told := s.record(t)
				if !strings.HasPrefix(told, `{"type":7,"error":"`) || !strings.Contains(told, tc.why) {
					t.Error(told)
				}
				is.Equal(s.closes(t), ws.StatusProtocolError)
				is.Equal(len(h.streams.Connections("acme", nil)), 0)
			})
		}
	})
}

// Who leaves, in whichever state and with or without a word, is gone, and nothing is kept of what
// has not come whole.
func TestSignalRSocketThatIsLeft(t *testing.T) {
	alone(t, "each hub counts for itself")
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		for name, sent := range map[string]string{
			"before the handshake":     "",
			"within its frame":         handshake[:9],
			"between its fragments":    frameOf(firstFragment, `{"protocol":`),
			"after it":                 handshake,
			"within a frame":           handshake + frameOf(textFrame, touchRecord+"\x1e")[:9],
			"between fragments":        handshake + frameOf(firstFragment, `{"type":1`),
			"after it was refused":     frameOf(textFrame, "{}\x1e"),
			"after it took its leave":  handshake + frameOf(textFrame, `{"type":7}`+"\x1e"),
			"after it broke the rules": handshake + frameOf(binaryFrame, "x"),
		} {
			for last, with := range map[string]string{"": "", " with a close frame": frameOf(closeFrame, "\x03\xe9")} {
				t.Run(name+last, func(t *testing.T) {
					s := dialSignalR(t, url, asMe, sent)
					io.WriteString(s, with)
					s.Close()
					eventually(t, func() bool {
						return h.Stats().Streams == 0 && scrape(t, h.Handler)[`realtime_quota_bytes{quota="bodies"}`] == 0
					})
				})
			}
		}
	})
}

// Each end is told in the words of SignalR and of WebSocket, and says whether to come back.
func TestSignalRSocketEnds(t *testing.T) {
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		for reason, tc := range map[delivery.CloseReason]struct {
			end  string
			code ws.StatusCode
		}{
			delivery.CloseKicked:  {`{"type":7,"error":"kicked"}`, 4410},
			delivery.CloseExpired: {`{"type":7,"allowReconnect":true}`, 4401},
		} {
			s := dialSignalR(t, url, asMe, "")
			s.accepted(t)
			for _, c := range h.streams.Connections("acme", nil) {
				h.streams.Kick(c, reason)
			}
			is.True(strings.Contains(s.record(t), `"target":"hub.closing","arguments":[{"reason":"`+string(reason)+`"`))
			is.Equal(s.record(t), tc.end)
			is.Equal(s.closes(t), tc.code)
		}
	})
}

// A hub that takes nobody says so on the socket, and that the client is to come back.
func TestSignalRSocketTurnedAway(t *testing.T) {
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Most.All = 1 })
	for _, node := range h.nodes {
		node.mustConnect(t, delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "first"}})
	}
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		s := dialSignalR(t, url, asMe, handshake)
		is.Equal(s.record(t), "{}")
		is.True(strings.Contains(s.record(t), `"reason":"capacity"`))
		is.Equal(s.record(t), `{"type":7,"allowReconnect":true}`)
		is.Equal(s.closes(t), ws.StatusCode(4429))
	})
}

// Of one person, or address, so many sockets wait for their handshakes at most. None is a stream yet,
// so no other bound would hold for them.
func TestSignalRSocketsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where none has waited too long before the last has come
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		asks := func(early string) (*signalRSocket, *http.Response) { return askSignalR(t, h.dial(t), asMe, early) }
		var first *signalRSocket
		for range 256 {
			s, answer := asks("")
			is.Equal(answer.StatusCode, http.StatusSwitchingProtocols)
			first = cmp.Or(first, s)
		}
		_, refused := asks("")
		is.Equal(refused.StatusCode, http.StatusServiceUnavailable)
		why, err := io.ReadAll(refused.Body)
		is.NoErr(err)
		is.True(strings.Contains(string(why), `"code":"HubFull"`))
		first.accepted(t)
		next, _ := asks(handshake)
		next.ready(t)
	})
}

// Who was sent away acknowledges behind the end, and says nothing else.
func TestSignalRSocketAcknowledgesAfterItsEnd(t *testing.T) {
	t.Parallel()
	alone(t, "one hub is asked")
	h := newTestHub(t)
	h.changes(t, http.MethodPut, "/v1/tenants/acme/conversations/talk/members", `{"members":["user:me","user:other"]}`)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		id := rand.Text()
		other := h.open(t, "tenant=acme&profile=other")
		s := dialSignalR(t, url, asMe+"&ack=true", "")
		s.accepted(t)
		e := h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"`+id+`","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["me"]}}`)
		s.record(t)
		for _, c := range h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"}) {
			h.streams.Kick(c, delivery.CloseKicked)
		}
		s.says(`{"type":1,"target":"StartTyping","arguments":["talk"]}`, `{"type":1,"target":"Ack","arguments":["`+e["cursor"].(string)+`"]}`)
		h.hasAcknowledged(t, id, "me")
		is.Equal(h.payloads(t, "acme", other), []string{""})
	})
}
