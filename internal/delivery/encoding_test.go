package delivery

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// lines is an encoding of one line for each thing it is told, which it counts.
type lines struct{ events, words, places, heartbeats *int }

func newLines() lines { return lines{new(int), new(int), new(int), new(int)} }

func (l lines) AppendEvent(b []byte, cursor, typ string, envelope []byte) []byte {
	*l.events++
	return fmt.Appendf(b, "event %s %t\n", typ, cursor != "")
}

func (l lines) AppendWord(b []byte, cursor, typ string, retry time.Duration, data []byte) []byte {
	*l.words++
	return fmt.Appendf(b, "word %s %t %t\n", typ, cursor != "", retry > 0)
}

func (l lines) AppendPlace(b []byte, cursor string) []byte {
	*l.places++
	return fmt.Appendf(b, "place %t\n", cursor != "")
}

func (l lines) AppendHeartbeat(b []byte) []byte {
	*l.heartbeats++
	return append(b, "alive\n"...)
}

func (l lines) AppendEnd(b []byte, reason string) []byte { return fmt.Appendf(b, "end %s\n", reason) }

// A stream is told in its own encoding all that any other is told, and each thing is encoded
// once, however many streams there are.
func TestEachThingIsEncodedOnceAnEncoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newRig(t)
		first, second := newLines(), newLines()
		var all []*servedHere
		encodings := []Encoding{first, sse.Encoding{}, second, sse.Encoding{Unnamed: true}}
		for range 3 {
			for i, e := range encodings {
				all = append(all, h.serve(t, Subscription{Encoding: e, Tenant: "acme", Profile: user(fmt.Sprint(i))}))
			}
		}
		from := h.head(t, "acme").String()
		h.publish("acme", event.Target{Kind: event.KindTenant}, "1", false)
		h.publish("acme", event.Target{Kind: event.KindTenant}, "2", true)
		time.Sleep(time.Second)
		is.Equal(*first.events, 2)
		is.Equal(*second.events, 2)
		is.Equal(all[0].written(), "event a.b true\nevent a.b false\n")
		is.True(strings.Contains(all[1].written(), "event: a.b\n"))
		is.True(!strings.Contains(all[3].written(), "event:"))

		h.tell("1", false) // of the second encoding in the list alone
		time.Sleep(time.Minute)
		is.Equal(*first.events, 2)
		is.True(strings.HasPrefix(all[0].written(), "place true\nalive\nalive\n"))
		is.Equal(*first.places, 1) // for three streams
		is.Equal(*first.heartbeats, 1)

		back := h.serve(t, Subscription{Encoding: first, Tenant: "acme", Profile: user("0"), Cursor: from})
		is.Equal(back.out.String(), "word hub.ready true true\nevent a.b true\nplace true\n")
		lost := h.serve(t, Subscription{Encoding: first, Tenant: "acme", Profile: user("0"), Cursor: "nowhere"})
		is.Equal(lost.out.String(), "word hub.ready false true\nword hub.gap true false\n")
		is.True(h.Streams.Kick(lost.conn, CloseKicked))
		is.Equal(lost.written(), "word hub.closing true true\nend kicked\n")
	})
}
