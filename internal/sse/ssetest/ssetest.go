// Package ssetest is streams of events and what a reader that follows the standard makes of
// them, for the tests of whatever reads or carries one.
package ssetest

import (
	"io"
	"math"
	"strings"
	"time"

	"realtimehub/internal/sse"
)

// Parsed is all that a stream says.
type Parsed struct {
	Events            []sse.Event
	LastID            string
	Retry             time.Duration // -1 when there was none
	Comments, BareIDs int
}

// ParseAll reads src to its end; maxLine 0 leaves the default.
func ParseAll(src io.Reader, maxLine int) (Parsed, error) {
	var p Parsed
	r := sse.NewReader(src)
	if maxLine > 0 {
		r.MaxLine = maxLine
	}
	for {
		ev, err := r.Next()
		if err != nil {
			p.LastID, p.Retry, p.Comments, p.BareIDs = r.LastEventID(), -1, r.Comments, r.BareIDs
			if d, ok := r.Retry(); ok {
				p.Retry = d
			}
			return p, err
		}
		p.Events = append(p.Events, ev)
	}
}

// Chunker reads at most N bytes at a time.
type Chunker struct {
	R io.Reader
	N int
}

func (c Chunker) Read(p []byte) (int, error) { return c.R.Read(p[:min(len(p), c.N)]) }

// Message is an event of the default type.
func Message(data string) sse.Event { return sse.Event{Type: "message", Data: data} }

// MessageID is a Message at an id.
func MessageID(id, data string) sse.Event { return sse.Event{ID: id, Type: "message", Data: data} }

// None is the retry of a stream that names none.
const None = time.Duration(-1)

// Vectors are streams, and what is in them. Those that are named like a file of
// web-platform-tests/wpt/eventsource have that file's stream (with the "\n\n\n" its server adds where the test does not say newline=none, and "\n" where it
// does); the others are ours.
var Vectors = []struct {
	Name, In string
	Want     Parsed
}{
	{"event-data", "data:msg\ndata:msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
		Parsed{Events: []sse.Event{Message("msg\nmsg"), Message(""), Message("end")}, Retry: None, Comments: 1}},
	{"format-bom", "\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n\n", Parsed{Events: []sse.Event{Message("1"), Message("3")}, Retry: None}},
	{"format-bom-2", "\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n\n", Parsed{Events: []sse.Event{Message("2"), Message("3")}, Retry: None}},
	{"format-comments", "data:1\r:\x00\n:\r\ndata:2\n:" + strings.Repeat("x", 2048) + "\rdata:3\n:data:fail\r:" + strings.Repeat("x", 2048) + "\ndata:4\n\n",
		Parsed{Events: []sse.Event{Message("1\n2\n3\n4")}, Retry: None, Comments: 5}},
	{"format-data-before-final-empty-line", "retry:1000\ndata:test1\n\nid:test\ndata:test2\n",
		Parsed{Events: []sse.Event{Message("test1")}, Retry: time.Second}},
	{"format-field-data", "data:\n\ndata\ndata\n\ndata:test\n\n\n", Parsed{Events: []sse.Event{Message(""), Message("\n"), Message("test")}, Retry: None}},
	{"format-field-event", "event:test\ndata:x\n\ndata:x\n\n\n",
		Parsed{Events: []sse.Event{{Type: "test", Data: "x"}, Message("x")}, Retry: None}},
	{"format-field-event-empty", "event: \ndata:data\n\n\n", Parsed{Events: []sse.Event{Message("data")}, Retry: None}},
	{"format-field-id", "id: …\nretry: 200\ndata: hello\n\n",
		Parsed{Events: []sse.Event{MessageID("…", "hello")}, LastID: "…", Retry: 200 * time.Millisecond}},
	{"format-field-id-3 persists", "id: 1\ndata: 1\n\ndata:2\n\n",
		Parsed{Events: []sse.Event{MessageID("1", "1"), MessageID("1", "2")}, LastID: "1", Retry: None}},
	{"format-field-id-3 changes and persists", "id: 1\ndata: 1\n\nid: 2\ndata:2\n\ndata:3\n\n",
		Parsed{Events: []sse.Event{MessageID("1", "1"), MessageID("2", "2"), MessageID("2", "3")}, LastID: "2", Retry: None}},
	{"format-field-id-3 resets", "id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n",
		Parsed{Events: []sse.Event{MessageID("1", "1"), Message("2"), Message("3")}, Retry: None}},
	{"format-field-id-null", "id: \x00\x00\nretry: 200\ndata: hello\n\n",
		Parsed{Events: []sse.Event{Message("hello")}, Retry: 200 * time.Millisecond}},
	{"format-field-parsing", "data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
		Parsed{Events: []sse.Event{Message("\x00\n 2\n1\n3\n\n4")}, Retry: None}},
	{"format-field-retry", "retry:02000\ndata:x\n\n\n", Parsed{Events: []sse.Event{Message("x")}, Retry: 2 * time.Second}},
	{"format-field-retry-bogus", "retry:2000\nretry:1000x\ndata:x\n\n\n", Parsed{Events: []sse.Event{Message("x")}, Retry: 2 * time.Second}},
	{"format-field-retry-empty", "retry\ndata:test\n\n\n", Parsed{Events: []sse.Event{Message("test")}, Retry: None}},
	{"format-field-unknown", "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n\n",
		Parsed{Events: []sse.Event{Message("test\n\ntest")}, Retry: None, Comments: 1}},
	{"format-leading-space", "data:\ttest\rdata: \ndata:test\n\n\n", Parsed{Events: []sse.Event{Message("\ttest\n\ntest")}, Retry: None}},
	{"format-newlines", "data:test\r\ndata\ndata:test\r\n\r\n", Parsed{Events: []sse.Event{Message("test\n\ntest")}, Retry: None}},
	{"format-null-character", "data:\x00\n\n\n\n\n", Parsed{Events: []sse.Event{Message("\x00")}, Retry: None}},
	{"format-utf-8", "data:ok…\n\n\n", Parsed{Events: []sse.Event{Message("ok…")}, Retry: None}},

	{"nothing", "", Parsed{Retry: None}},
	{"only a BOM", "\ufeff", Parsed{Retry: None}},
	{"BOM and a blank line", "\ufeff\ndata:1\n\n", Parsed{Events: []sse.Event{Message("1")}, Retry: None}},
	{"BOM, second line", "\n\ufeffdata:1\n\n", Parsed{Retry: None}},
	{"part of a BOM", "\xef\xbbdata:1\n\ndata:2\n\n", Parsed{Events: []sse.Event{Message("2")}, Retry: None}},
	{"no final newline", "data:1\n\ndata:2", Parsed{Events: []sse.Event{Message("1")}, Retry: None}},
	{"CR only", "id:1\rdata:a\rdata:b\r\r\rdata:c\r\r", Parsed{Events: []sse.Event{MessageID("1", "a\nb"), MessageID("1", "c")}, LastID: "1", Retry: None}},
	{"LF CR is two ends", "data:a\n\rdata:b\n\r", Parsed{Events: []sse.Event{Message("a"), Message("b")}, Retry: None}},
	{"CR LF LF is two ends", "data:a\r\n\ndata:b\r\r\n", Parsed{Events: []sse.Event{Message("a"), Message("b")}, Retry: None}},
	{"bare id", "id:7\n\ndata:x\n\nid:8\n\n", Parsed{Events: []sse.Event{MessageID("7", "x")}, LastID: "8", Retry: None, BareIDs: 2}},
	{"bare id, reset", "id:7\n\nid\n\n", Parsed{Retry: None, BareIDs: 2}},
	{"bare id with NUL", "id:7\n\nid:8\x00\n\n", Parsed{LastID: "7", Retry: None, BareIDs: 1}},
	{"id before a bad id", "id:1\nid:2\x00\ndata:x\n\n", Parsed{Events: []sse.Event{MessageID("1", "x")}, LastID: "1", Retry: None}},
	{"id keeps inner and second spaces", "id:  a b \ndata:x\n\n", Parsed{Events: []sse.Event{MessageID(" a b ", "x")}, LastID: " a b ", Retry: None}},
	{"type without data is forgotten", "event:a\n\ndata:x\n\n", Parsed{Events: []sse.Event{Message("x")}, Retry: None}},
	{"last type wins", "event:a\nevent:b\ndata:x\n\n", Parsed{Events: []sse.Event{{Type: "b", Data: "x"}}, Retry: None}},
	{"type set, then empty", "event:a\nevent\ndata:x\n\n", Parsed{Events: []sse.Event{Message("x")}, Retry: None}},
	{"colons in a value", "data:a:b: c\n\n", Parsed{Events: []sse.Event{Message("a:b: c")}, Retry: None}},
	{"name with a space", "data :x\n\n", Parsed{Retry: None}},
	{"retry needs no dispatch", "retry:5", Parsed{Retry: None}},
	{"retry at its line's end", "retry:5\n", Parsed{Retry: 5 * time.Millisecond}},
	{"retry zero", "retry: 0\n", Parsed{Retry: 0}},
	{"retry, not digits", "retry:7\nretry:-1\nretry:+1\nretry:1.5\nretry:  1\nretry:1 \nretry:٣\nretry:1e3\nretry:\n", Parsed{Retry: 7 * time.Millisecond}},
	{"retry, huge", "retry:" + strings.Repeat("9", 400) + "\n", Parsed{Retry: math.MaxInt64 / time.Millisecond * time.Millisecond}},
	{"retry, the most", "retry:9223372036854\n", Parsed{Retry: 9223372036854 * time.Millisecond}},
	{"retry, one more", "retry:9223372036855\n", Parsed{Retry: 9223372036854 * time.Millisecond}},
	// Unicode, section 3.9, tables 3-8 to 3-11: U+FFFD for maximal subparts.
	{"bad UTF-8", "event:\xff\nid:\xe2\x80\ndata:a\xf1\x80\x80\xe1\x80\xc2b\x80c\x80\xbfd\ndata:\xc0\xaf\xe0\x80\xbf\xf0\x81\x82A\ndata:\xed\xa0\x80\xf4\x91\x92\x93\xffA\x80\xbfB\ndata:\xe2\x80\n\n",
		Parsed{
			Events: []sse.Event{{ID: "\ufffd", Type: "\ufffd", Data: "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd\n" + strings.Repeat("\ufffd", 8) +
				"A\n" + strings.Repeat("\ufffd", 8) + "A\ufffd\ufffdB\n\ufffd"}},
			LastID: "\ufffd", Retry: None,
		}},
	{"longer than the read buffer", "data:" + strings.Repeat("é", 10000) + "\r\n\r\n", Parsed{Events: []sse.Event{Message(strings.Repeat("é", 10000))}, Retry: None}},
}
