package reader

import (
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/matryer/is"
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

func fromServer(op ws.OpCode, text string) string {
	return string(ws.MustCompileFrame(ws.NewFrame(op, true, []byte(text))))
}

// Events are counted among what is none: a place, a sign of life, an event without its end.
func TestReaderOfAWebSocketAtEverySplit(t *testing.T) {
	is := is.New(t)
	event := strings.Repeat("e", SmallestEvent)
	whole := switching + fromServer(ws.OpText, event) +
		fromServer(ws.OpText, `{"id":"juiXETMMHM85ouZa0Su9fQ"}`) + fromServer(ws.OpPing, "") + fromServer(ws.OpText, "") +
		fromServer(ws.OpText, strings.Repeat(event, 3)) + fromServer(ws.OpPing, event) + fromServer(ws.OpBinary, event) +
		fromServer(ws.OpText, strings.Repeat(event, 1100))
	open := fromServer(ws.OpText, event)
	whole += open[:len(open)-1]
	for first := range 600 {
		for _, step := range []int{1, 7, len(whole)} {
			r := fed(t, whole, first, step)
			is.Equal(r.Events, events)
			is.True(r.frames.pinged)
			is.NoErr(r.Feed([]byte(open[len(open)-1:])))
			is.Equal(r.Events, events+1)
		}
	}
}

func TestReaderOfAWebSocketRefuses(t *testing.T) {
	for name, sent := range map[string]string{
		"the end":           fromServer(ws.OpClose, "\x03\xe9"),
		"a fragment":        "\x01\x01a",
		"a masked frame":    string(FromClient(ws.OpText, "a")),
		"a huge frame":      "\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00",
		"a negative length": "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var r Reader
			is.NoErr(r.Feed([]byte(switching)))
			is.True(r.Feed([]byte(sent)) != nil)
		})
	}
}
