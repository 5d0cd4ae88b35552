package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/quota"
	"realtimehub/internal/sse"
)

// bothWays has a test use the hub's own server, whose sockets the engine takes where it can, and
// one that keeps its handlers.
func bothWays(t *testing.T, h *testHub, test func(t *testing.T, url string)) {
	t.Run("taken", func(t *testing.T) { test(t, h.URL) })
	plain := httptest.NewServer(h.Handler)
	t.Cleanup(plain.Close)
	t.Run("plain", func(t *testing.T) { test(t, plain.URL) })
}

// bareSocket is a WebSocket frame by frame.
type bareSocket struct {
	net.Conn
	from *bufio.Reader
}

const upgradeHead = "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// bareSocket opens a socket, sends what comes at once with the request, and reads hub.ready.
func (h *testHub) bareSocket(t testing.TB, url, query, early string) *bareSocket {
	t.Helper()
	return openBare(t, dialBare(t, url), query, early)
}

// dialBare is a connection to a hub, for a minute at most.
func dialBare(t testing.TB, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// openBare is bareSocket on a connection.
func openBare(t testing.TB, conn net.Conn, query, early string) *bareSocket {
	t.Helper()
	s := askBare(t, conn, query, early)
	if first := s.text(t); !strings.Contains(first, `"event":"hub.ready"`) {
		t.Fatal(first)
	}
	return s
}

// askBare is openBare that reads no more than the answer to the request.
func askBare(t testing.TB, conn net.Conn, query, early string) *bareSocket {
	t.Helper()
	fmt.Fprintf(conn, "GET /v1/socket?%s HTTP/1.1\r\n%s\r\n%s", query, upgradeHead, early)
	s := &bareSocket{conn, bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.from, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	return s
}

// next is the next frame.
func (s *bareSocket) next(t testing.TB) ws.Frame {
	t.Helper()
	frame, err := ws.ReadFrame(s.from)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// text is the next frame, which has a text.
func (s *bareSocket) text(t testing.TB) string {
	t.Helper()
	frame := s.next(t)
	if frame.Header.OpCode != ws.OpText {
		t.Fatalf("%+v", frame)
	}
	return string(frame.Payload)
}

// closes reads a close frame, after which nothing comes.
func (s *bareSocket) closes(t testing.TB) ws.StatusCode {
	t.Helper()
	frame := s.next(t)
	rest, err := io.ReadAll(s.from)
	if frame.Header.OpCode != ws.OpClose || err != nil || len(rest) > 0 {
		t.Fatalf("%+v, then %q, %v", frame, rest, err)
	}
	code, _ := ws.ParseCloseFrameData(frame.Payload)
	return code
}

// frameOf is a frame as a client sends it. Its first byte has FIN, the reserved bits and the opcode.
func frameOf(first byte, payload string) string {
	h := ws.Header{Fin: first&0x80 != 0, Rsv: first >> 4 & 7, OpCode: ws.OpCode(first & 0xf), Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: int64(len(payload))}
	var b bytes.Buffer
	ws.WriteHeader(&b, h)
	text := []byte(payload)
	ws.Cipher(text, h.Mask, 0)
	return b.String() + string(text)
}

// First bytes of frames.
const (
	textFrame, binaryFrame, closeFrame, pingFrame = 0x81, 0x82, 0x88, 0x89
	firstFragment, lastFragment                   = 0x01, 0x80
)

var pongFrame = frameOf(0x8a, "")

const touched = `{"n":1,"ok":true}`

// Whoever breaks the protocol is told, with the code that RFC 6455 has for it, and is gone.
func TestSocketOfWhoBreaksTheProtocol(t *testing.T) {
	alone(t, "each hub counts for itself")
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		for name, tc := range map[string]struct {
			sent string
			code ws.StatusCode
		}{
			"no mask":                      {"\x81\x01x", 1002},
			"a reserved bit":               {frameOf(0xc1, "x"), 1002},
			"a reserved opcode":            {frameOf(0x83, "x"), 1002},
			"a reserved control frame":     {frameOf(0x8b, ""), 1002},
			"a ping of 126 bytes":          {frameOf(pingFrame, strings.Repeat("x", 126)), 1002},
			"a ping in fragments":          {frameOf(0x09, ""), 1002},
			"a fragment of nothing":        {frameOf(lastFragment, "x"), 1002},
			"a message within a message":   {frameOf(firstFragment, "x") + frameOf(textFrame, "y"), 1002},
			"a length past 2^63":           {"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xffabcd", 1002},
			"half a close code":            {frameOf(closeFrame, "\x03"), 1002},
			"a close code never sent":      {frameOf(closeFrame, "\x03\xee"), 1002},
			"binary":                       {frameOf(binaryFrame, "x"), 1003},
			"no UTF-8":                     {frameOf(textFrame, "\xff"), 1007},
			"half a character":             {frameOf(firstFragment, "\xe2\x82") + frameOf(lastFragment, ""), 1007},
			"16 KiB and a byte":            {frameOf(textFrame, strings.Repeat("x", 16<<10+1)), 1009},
			"a length of which none comes": {"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xffabcd", 1009},
			"so much in fragments":         {frameOf(firstFragment, strings.Repeat("x", 16<<10)) + frameOf(lastFragment, "x"), 1009},
		} {
			t.Run(name, func(t *testing.T) {
				is := is.New(t)
				before := h.Stats().Closes[delivery.CloseProtocol]
				s := h.bareSocket(t, url, meQuery, "")
				io.WriteString(s, tc.sent+frameOf(textFrame, `{"n":1,"do":"touch"}`)) // what follows is not listened to
				is.True(strings.Contains(s.text(t), `"event":"hub.closing","data":{"reason":"protocol","retryMs":`))
				is.Equal(s.closes(t), tc.code)
				is.Equal(h.Stats().Closes[delivery.CloseProtocol], before+1)
				is.Equal(len(h.streams.Connections("acme", nil)), 0)
			})
		}
	})
	eventually(t, func() bool { return scrape(t, h.Handler)[`realtime_quota_bytes{quota="bodies"}`] == 0 })
}

// What comes in fragments, cut anywhere, with control frames between them, with the request or
// byte by byte, is one message.
func TestSocketInPieces(t *testing.T) {
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		const touch = `{"n":1,"do":"touch"}`
		s := h.bareSocket(t, url, meQuery, frameOf(textFrame, touch))
		is.Equal(s.text(t), touched) // came with the request
		io.WriteString(s, frameOf(firstFragment, touch[:3])+frameOf(pingFrame, "between")+frameOf(0, "")+frameOf(lastFragment, touch[3:]))
		pong := s.next(t)
		for pong.Header.OpCode == ws.OpText { // which of the two is first depends on how they were read
			is.Equal(string(pong.Payload), touched)
			pong = s.next(t)
			is.Equal(pong.Header.OpCode, ws.OpPong)
			io.WriteString(s, frameOf(textFrame, touch))
		}
		is.Equal(string(pong.Payload), "between")
		is.Equal(s.text(t), touched)
		euro := frameOf(firstFragment, `{"n":1,"do":"`+"\xe2") + frameOf(0, "\x82") + frameOf(lastFragment, "\xac"+`"}`)
		for i := range euro {
			io.WriteString(s, euro[i:i+1])
		}
		is.True(strings.Contains(s.text(t), `"code":"InvalidField"`)) // valid UTF-8, and no command
	})
}

// Of the pings of one read only the newest is answered; the socket lives on.
func TestSocketOfManyPings(t *testing.T) {
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		s := h.bareSocket(t, url, meQuery, "")
		var all strings.Builder
		const pings = 10_000
		for i := range pings {
			all.WriteString(frameOf(pingFrame, fmt.Sprint(i)))
		}
		go io.WriteString(s, all.String())
		pongs, last := 0, ""
		for last != fmt.Sprint(pings-1) {
			frame := s.next(t)
			is.Equal(frame.Header.OpCode, ws.OpPong)
			pongs, last = pongs+1, string(frame.Payload)
		}
		is.True(pongs < pings/2)
		io.WriteString(s, frameOf(textFrame, `{"n":1,"do":"touch"}`))
		is.Equal(s.text(t), touched)
	})
}

// A client that takes its leave is answered once, in any state, and has left.
func TestSocketThatIsClosed(t *testing.T) {
	alone(t, "each hub counts for itself")
	h := newTestHub(t)
	bothWays(t, h, func(t *testing.T, url string) {
		for name, tc := range map[string]struct {
			before, payload string
			code            ws.StatusCode
		}{
			"without a code":     {"", "", 0},
			"with one":           {"", "\x03\xe8bye", 1000},
			"with its own":       {"", "\x0f\xa1", 4001},
			"within a message":   {frameOf(firstFragment, "x"), "\x03\xe9", 1001},
			"after a ping":       {frameOf(pingFrame, "x"), "\x03\xe9", 1001},
			"and goes on saying": {"", "\x03\xe8", 1000},
		} {
			t.Run(name, func(t *testing.T) {
				is := is.New(t)
				before := h.Stats().Closes[delivery.CloseClient]
				s := h.bareSocket(t, url, meQuery, "")
				io.WriteString(s, tc.before+frameOf(closeFrame, tc.payload)+frameOf(closeFrame, tc.payload)+frameOf(textFrame, "\xff"))
				is.Equal(s.closes(t), tc.code)
				is.Equal(h.Stats().Closes[delivery.CloseClient], before+1)
			})
		}
		t.Run("after the hub has", func(t *testing.T) {
			is := is.New(t)
			s := h.bareSocket(t, url, meQuery, "")
			io.WriteString(s, frameOf(firstFragment, "x"))
			h.streams.Kick(h.streams.Connections("acme", nil)[0], delivery.CloseKicked)
			is.True(strings.Contains(s.text(t), `"reason":"kicked"`))
			io.WriteString(s, frameOf(closeFrame, "\x11\x3a"))
			is.Equal(s.closes(t), ws.StatusCode(4410))
		})
		t.Run("without a word", func(t *testing.T) {
			s := h.bareSocket(t, url, meQuery, "")
			s.Close()
			eventually(t, func() bool { return len(h.streams.Connections("acme", nil)) == 0 })
		})
	})
}

// Half a handshake opens nothing, and keeps nothing.
func TestHalfASocket(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.URL, "http://"))
	is.NoErr(err)
	io.WriteString(conn, "GET /v1/socket?"+meQuery+" HTTP/1.1\r\n"+upgradeHead)
	conn.Close()
	s := h.bareSocket(t, h.URL, meQuery, frameOf(textFrame, `{"n":1,"do":"touch"}`))
	is.Equal(s.text(t), touched)
	is.Equal(h.Stats().Streams, 1)
}

// A message may take its time, but not for ever: until it has come whole it holds memory that
// others may need.
func TestSocketOfALateMessage(t *testing.T) {
	for name, sent := range map[string]struct{ begins, goesOn, ends string }{
		"in fragments": {frameOf(firstFragment, `{"n":1,`), frameOf(0, " "), frameOf(lastFragment, `"do":"touch"}`)},
		"in one frame": {frameOf(textFrame, `{"n":1,"do":"touch"}`)[:1], frameOf(textFrame, `{"n":1,"do":"touch"}`)[1:2], frameOf(textFrame, `{"n":1,"do":"touch"}`)[1:]},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				h := newSilentHub(t, false, false)
				defer h.end()
				h.quotas.Bodies = quota.New[event.TenantProfile](1<<20, 1)
				s := h.socket(t)
				for range 3 { // each has all of the time
					io.WriteString(s, sent.begins)
					time.Sleep(20 * time.Second)
					is.True(h.quotas.Bodies.Total() > 0)
					io.WriteString(s, sent.ends)
					is.Equal(s.answer(t), touched)
					is.Equal(h.quotas.Bodies.Total(), int64(0))
				}
				io.WriteString(s, sent.begins)
				begun := time.Now()
				time.Sleep(20 * time.Second)
				io.WriteString(s, sent.goesOn)
				is.True(strings.Contains(s.answer(t), `"reason":"protocol"`))
				is.Equal(s.closes(t), ws.StatusPolicyViolation)
				is.Equal(time.Since(begun), 30*time.Second)
				synctest.Wait()
				is.Equal(h.quotas.Bodies.Total(), int64(0))
			})
		})
	}
}

// Who has spoken before it is turned away hears all that it is told: its connection is ended, not reset.
func TestSocketThatSpeaksAndIsTurnedAway(t *testing.T) {
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Most.All = 1 })
	for _, node := range h.nodes {
		node.mustConnect(t, delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: "first"}})
	}
	spoken := strings.Repeat(frameOf(textFrame, `{"n":1,"do":"touch"}`), 1000) // more than was read with the request
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		s := askBare(t, dialBare(t, url), meQuery, spoken)
		is.True(strings.Contains(s.text(t), `"reason":"capacity"`))
		is.Equal(s.closes(t), ws.StatusCode(4429))
	})
}

// socket opens a socket to a hub in a bubble.
func (h *silentHub) socket(t *testing.T) *bareSocket {
	t.Helper()
	return openBare(t, h.dial(t), meQuery, "")
}

// dial is a connection to a hub in a bubble.
func (h *silentHub) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := h.client.Transport.(*http.Transport).DialContext(t.Context(), "tcp", "localhost:8080")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answer is the next text, after pings.
func (s *bareSocket) answer(t testing.TB) string {
	t.Helper()
	for {
		if frame := s.next(t); frame.Header.OpCode != ws.OpPing {
			return string(frame.Payload)
		}
	}
}
