package sse

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/matryer/is"
)

// parsed is all that a stream says.
type parsed struct {
	Events            []Event
	LastID            string
	Retry             time.Duration // -1 when there was none
	Comments, BareIDs int
}

// parseAll reads src to its end; maxLine 0 leaves the default.
func parseAll(src io.Reader, maxLine int) (parsed, error) {
	var p parsed
	r := NewReader(src)
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

// crSplitter ends a read after every CR, so that each CRLF comes in two.
type crSplitter struct{ rest []byte }

func (c *crSplitter) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	chunk := c.rest
	if i := bytes.IndexByte(chunk, '\r'); i >= 0 {
		chunk = chunk[:i+1]
	}
	n := copy(p, chunk)
	c.rest = c.rest[n:]
	return n, nil
}

// chunker reads at most n bytes at a time.
type chunker struct {
	r io.Reader
	n int
}

func (c chunker) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }

// readings are the ways in which each stream is read; all must give the same.
var readings = []struct {
	name string
	of   func(stream string) io.Reader
}{
	{"whole", func(s string) io.Reader { return strings.NewReader(s) }},
	{"one byte", func(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) }},
	{"CR split", func(s string) io.Reader { return &crSplitter{[]byte(s)} }},
	{"EOF with data", func(s string) io.Reader { return iotest.DataErrReader(strings.NewReader(s)) }},
}

func msg(data string) Event       { return Event{Type: "message", Data: data} }
func msgID(id, data string) Event { return Event{ID: id, Type: "message", Data: data} }

const none = time.Duration(-1)

// vectors: those named like a file of web-platform-tests/wpt/eventsource have that file's stream
// (with the "\n\n\n" its server adds where the test does not say newline=none, and "\n" where it
// does); the others are ours.
var vectors = []struct {
	name, in string
	want     parsed
}{
	{"event-data", "data:msg\ndata:msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n",
		parsed{Events: []Event{msg("msg\nmsg"), msg(""), msg("end")}, Retry: none, Comments: 1}},
	{"format-bom", "\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n\n", parsed{Events: []Event{msg("1"), msg("3")}, Retry: none}},
	{"format-bom-2", "\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n\n", parsed{Events: []Event{msg("2"), msg("3")}, Retry: none}},
	{"format-comments", "data:1\r:\x00\n:\r\ndata:2\n:" + strings.Repeat("x", 2048) + "\rdata:3\n:data:fail\r:" + strings.Repeat("x", 2048) + "\ndata:4\n\n",
		parsed{Events: []Event{msg("1\n2\n3\n4")}, Retry: none, Comments: 5}},
	{"format-data-before-final-empty-line", "retry:1000\ndata:test1\n\nid:test\ndata:test2\n",
		parsed{Events: []Event{msg("test1")}, Retry: time.Second}},
	{"format-field-data", "data:\n\ndata\ndata\n\ndata:test\n\n\n", parsed{Events: []Event{msg(""), msg("\n"), msg("test")}, Retry: none}},
	{"format-field-event", "event:test\ndata:x\n\ndata:x\n\n\n",
		parsed{Events: []Event{{Type: "test", Data: "x"}, msg("x")}, Retry: none}},
	{"format-field-event-empty", "event: \ndata:data\n\n\n", parsed{Events: []Event{msg("data")}, Retry: none}},
	{"format-field-id", "id: …\nretry: 200\ndata: hello\n\n",
		parsed{Events: []Event{msgID("…", "hello")}, LastID: "…", Retry: 200 * time.Millisecond}},
	{"format-field-id-3 persists", "id: 1\ndata: 1\n\ndata:2\n\n",
		parsed{Events: []Event{msgID("1", "1"), msgID("1", "2")}, LastID: "1", Retry: none}},
	{"format-field-id-3 changes and persists", "id: 1\ndata: 1\n\nid: 2\ndata:2\n\ndata:3\n\n",
		parsed{Events: []Event{msgID("1", "1"), msgID("2", "2"), msgID("2", "3")}, LastID: "2", Retry: none}},
	{"format-field-id-3 resets", "id: 1\ndata: 1\n\nid:\ndata:2\n\ndata:3\n\n",
		parsed{Events: []Event{msgID("1", "1"), msg("2"), msg("3")}, Retry: none}},
	{"format-field-id-null", "id: \x00\x00\nretry: 200\ndata: hello\n\n",
		parsed{Events: []Event{msg("hello")}, Retry: 200 * time.Millisecond}},
	{"format-field-parsing", "data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n",
		parsed{Events: []Event{msg("\x00\n 2\n1\n3\n\n4")}, Retry: none}},
	{"format-field-retry", "retry:02000\ndata:x\n\n\n", parsed{Events: []Event{msg("x")}, Retry: 2 * time.Second}},
	{"format-field-retry-bogus", "retry:2000\nretry:1000x\ndata:x\n\n\n", parsed{Events: []Event{msg("x")}, Retry: 2 * time.Second}},
	{"format-field-retry-empty", "retry\ndata:test\n\n\n", parsed{Events: []Event{msg("test")}, Retry: none}},
	{"format-field-unknown", "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n\n",
		parsed{Events: []Event{msg("test\n\ntest")}, Retry: none, Comments: 1}},
	{"format-leading-space", "data:\ttest\rdata: \ndata:test\n\n\n", parsed{Events: []Event{msg("\ttest\n\ntest")}, Retry: none}},
	{"format-newlines", "data:test\r\ndata\ndata:test\r\n\r\n", parsed{Events: []Event{msg("test\n\ntest")}, Retry: none}},
	{"format-null-character", "data:\x00\n\n\n\n\n", parsed{Events: []Event{msg("\x00")}, Retry: none}},
	{"format-utf-8", "data:ok…\n\n\n", parsed{Events: []Event{msg("ok…")}, Retry: none}},

	{"nothing", "", parsed{Retry: none}},
	{"only a BOM", "\ufeff", parsed{Retry: none}},
	{"BOM and a blank line", "\ufeff\ndata:1\n\n", parsed{Events: []Event{msg("1")}, Retry: none}},
	{"BOM, second line", "\n\ufeffdata:1\n\n", parsed{Retry: none}},
	{"part of a BOM", "\xef\xbbdata:1\n\ndata:2\n\n", parsed{Events: []Event{msg("2")}, Retry: none}},
	{"no final newline", "data:1\n\ndata:2", parsed{Events: []Event{msg("1")}, Retry: none}},
	{"CR only", "id:1\rdata:a\rdata:b\r\r\rdata:c\r\r", parsed{Events: []Event{msgID("1", "a\nb"), msgID("1", "c")}, LastID: "1", Retry: none}},
	{"LF CR is two ends", "data:a\n\rdata:b\n\r", parsed{Events: []Event{msg("a"), msg("b")}, Retry: none}},
	{"CR LF LF is two ends", "data:a\r\n\ndata:b\r\r\n", parsed{Events: []Event{msg("a"), msg("b")}, Retry: none}},
	{"bare id", "id:7\n\ndata:x\n\nid:8\n\n", parsed{Events: []Event{msgID("7", "x")}, LastID: "8", Retry: none, BareIDs: 2}},
	{"bare id, reset", "id:7\n\nid\n\n", parsed{Retry: none, BareIDs: 2}},
	{"bare id with NUL", "id:7\n\nid:8\x00\n\n", parsed{LastID: "7", Retry: none, BareIDs: 1}},
	{"id before a bad id", "id:1\nid:2\x00\ndata:x\n\n", parsed{Events: []Event{msgID("1", "x")}, LastID: "1", Retry: none}},
	{"id keeps inner and second spaces", "id:  a b \ndata:x\n\n", parsed{Events: []Event{msgID(" a b ", "x")}, LastID: " a b ", Retry: none}},
	{"type without data is forgotten", "event:a\n\ndata:x\n\n", parsed{Events: []Event{msg("x")}, Retry: none}},
	{"last type wins", "event:a\nevent:b\ndata:x\n\n", parsed{Events: []Event{{Type: "b", Data: "x"}}, Retry: none}},
	{"type set, then empty", "event:a\nevent\ndata:x\n\n", parsed{Events: []Event{msg("x")}, Retry: none}},
	{"colons in a value", "data:a:b: c\n\n", parsed{Events: []Event{msg("a:b: c")}, Retry: none}},
	{"name with a space", "data :x\n\n", parsed{Retry: none}},
	{"retry needs no dispatch", "retry:5", parsed{Retry: none}},
	{"retry at its line's end", "retry:5\n", parsed{Retry: 5 * time.Millisecond}},
	{"retry zero", "retry: 0\n", parsed{Retry: 0}},
	{"retry, not digits", "retry:7\nretry:-1\nretry:+1\nretry:1.5\nretry:  1\nretry:1 \nretry:٣\nretry:1e3\nretry:\n", parsed{Retry: 7 * time.Millisecond}},
	{"retry, huge", "retry:" + strings.Repeat("9", 400) + "\n", parsed{Retry: math.MaxInt64 / time.Millisecond * time.Millisecond}},
	{"retry, the most", "retry:9223372036854\n", parsed{Retry: 9223372036854 * time.Millisecond}},
	{"retry, one more", "retry:9223372036855\n", parsed{Retry: 9223372036854 * time.Millisecond}},
	// Unicode, section 3.9, tables 3-8 to 3-11: U+FFFD for maximal subparts.
	{"bad UTF-8", "event:\xff\nid:\xe2\x80\ndata:a\xf1\x80\x80\xe1\x80\xc2b\x80c\x80\xbfd\ndata:\xc0\xaf\xe0\x80\xbf\xf0\x81\x82A\ndata:\xed\xa0\x80\xf4\x91\x92\x93\xffA\x80\xbfB\ndata:\xe2\x80\n\n",
		parsed{
			Events: []Event{{ID: "\ufffd", Type: "\ufffd", Data: "a\ufffd\ufffd\ufffdb\ufffdc\ufffd\ufffdd\n" + strings.Repeat("\ufffd", 8) +
				"A\n" + strings.Repeat("\ufffd", 8) + "A\ufffd\ufffdB\n\ufffd"}},
			LastID: "\ufffd", Retry: none,
		}},
	{"longer than the read buffer", "data:" + strings.Repeat("é", 10000) + "\r\n\r\n", parsed{Events: []Event{msg(strings.Repeat("é", 10000))}, Retry: none}},
}

func TestReader(t *testing.T) {
	for _, v := range vectors {
		for _, how := range readings {
			t.Run(v.name+"/"+how.name, func(t *testing.T) {
				is := is.New(t)
				got, err := parseAll(how.of(v.in), 0)
				is.Equal(err, io.EOF)
				is.Equal(got, v.want)
				if strings.Contains(v.in, "\r") {
					return
				}
				for _, end := range []string{"\r", "\r\n"} { // the same with the other line ends
					got, err = parseAll(how.of(strings.ReplaceAll(v.in, "\n", end)), 0)
					is.Equal(err, io.EOF)
					is.Equal(got, v.want)
				}
			})
		}
	}
}

// TestReaderReset has the second connections of format-field-id and format-field-id-2.
func TestReaderReset(t *testing.T) {
	is := is.New(t)
	r := NewReader(strings.NewReader("id: …\nretry: 200\ndata: hello\n\nid:lost\nevent:lost\ndata:lost\r"))
	ev, err := r.Next()
	is.NoErr(err)
	is.Equal(ev, msgID("…", "hello"))
	for range 2 {
		_, err = r.Next()
		is.Equal(err, io.EOF)
	}

	r.Reset(strings.NewReader("\ufeffdata: …\n\n"))
	ev, err = r.Next()
	is.NoErr(err)
	is.Equal(ev, msgID("…", "…"))
	d, ok := r.Retry()
	is.True(ok)
	is.Equal(d, 200*time.Millisecond)

	r.Reset(strings.NewReader("\n\n"))
	_, err = r.Next()
	is.Equal(err, io.EOF)
	is.Equal(r.LastEventID(), "…") // blank lines leave it
}

// TestReaderDispatchAtOnce has nothing more to read once the block's last CR or LF is there.
func TestReaderDispatchAtOnce(t *testing.T) {
	for _, end := range []string{"\n", "\r", "\r\n"} {
		is := is.New(t)
		pr, pw := io.Pipe()
		r := NewReader(pr)
		events := make(chan Event)
		go func() {
			defer close(events)
			for {
				ev, err := r.Next()
				if err != nil {
					return
				}
				events <- ev
			}
		}()
		blank := end[:1] // for CRLF its CR alone
		for _, data := range []string{"a", "b"} {
			_, err := io.WriteString(pw, "data:"+data+end+blank)
			is.NoErr(err)
			select {
			case ev := <-events:
				is.Equal(ev, msg(data))
			case <-time.After(time.Minute):
				t.Fatalf("no event after %q", end+blank)
			}
			_, err = io.WriteString(pw, end[1:]) // the LF left over
			is.NoErr(err)
		}
		is.NoErr(pw.Close())
		_, more := <-events
		is.True(!more)
	}
}

func TestReaderOnQuiet(t *testing.T) {
	is := is.New(t)
	r := NewReader(strings.NewReader(":\n\nid:1\n\nid:2\ndata:x\n\n\n:hb\n\nid:3\n\n"))
	type state struct {
		comments, bareIDs int
		id                string
	}
	var seen []state
	r.OnQuiet = func() { seen = append(seen, state{r.Comments, r.BareIDs, r.LastEventID()}) }
	for {
		if _, err := r.Next(); err != nil {
			break
		}
	}
	is.Equal(seen, []state{{1, 0, ""}, {1, 1, "1"}, {2, 1, "2"}, {2, 2, "3"}})
}

func TestReaderLimit(t *testing.T) {
	for _, c := range []struct {
		name, in string
		events   int
		err      error
	}{
		{"line at the limit", "data:67890\n\n", 1, io.EOF},
		{"line over it", "data:1\n\ndata:678901\n\n", 1, ErrTooLong},
		{"comment over it", ":1234567890\n", 0, ErrTooLong},
		{"line without an end", "data:678901", 0, ErrTooLong},
		{"data at the limit", "data:123\ndata:12345\n\n", 1, io.EOF},
		{"data over it", "data:123\ndata:12345\ndata\n\n", 0, ErrTooLong},
		{"data is per event", "data:12345\n\ndata:12345\n\ndata:12345\n\n", 3, io.EOF},
	} {
		for _, how := range readings {
			t.Run(c.name+"/"+how.name, func(t *testing.T) {
				is := is.New(t)
				got, err := parseAll(how.of(c.in), 10)
				is.Equal(err, c.err)
				is.Equal(len(got.Events), c.events)
			})
		}
	}
	t.Run("the default, endless line", func(t *testing.T) {
		is := is.New(t)
		r := NewReader(io.MultiReader(strings.NewReader("id:1\n\n:"), endless{}))
		for range 2 {
			_, err := r.Next()
			is.Equal(err, ErrTooLong)
		}
		is.Equal(r.LastEventID(), "1")
		is.True(cap(r.line) < 2*DefaultMaxLine)
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestReaderError(t *testing.T) {
	is := is.New(t)
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(strings.NewReader("data:1\n\nid:2\ndata:2\n"), iotest.ErrReader(broken), strings.NewReader("\n")))
	ev, err := r.Next()
	is.NoErr(err)
	is.Equal(ev, msg("1"))
	for range 2 { // final: nothing after it is read
		_, err = r.Next()
		is.Equal(err, broken)
	}
	is.Equal(r.LastEventID(), "")
}

// plain is the standard's algorithm once more, over a whole stream and as plainly as can be.
func plain(in []byte) (events []Event, lastID string) {
	s := strings.TrimPrefix(decodeUTF8(in), "\ufeff")
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(s, "\n")
	var data []string
	var typ, id string
	for _, line := range lines[:len(lines)-1] {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			lastID = id
			if data != nil {
				if typ == "" {
					typ = "message"
				}
				events = append(events, Event{lastID, typ, strings.Join(data, "\n")})
			}
			data, typ = nil, ""
		case name == "data":
			data = append(data, value)
		case name == "event":
			typ = value
		case name == "id" && !strings.Contains(value, "\x00"):
			id = value
		}
	}
	return events, lastID
}

// FuzzReader: any bytes, read in whatever pieces, give the same, and what plain makes of them.
func FuzzReader(f *testing.F) {
	for i, v := range vectors {
		f.Add([]byte(v.in), uint8(i), uint16(0))
		f.Add([]byte(v.in), uint8(i), uint16(i))
	}
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8, limit uint16) {
		is := is.New(t)
		want, wantErr := parseAll(bytes.NewReader(in), int(limit))
		is.True(wantErr == io.EOF || wantErr == ErrTooLong)
		if wantErr == io.EOF {
			events, lastID := plain(in)
			is.Equal(want.Events, events)
			is.Equal(want.LastID, lastID)
		}
		for _, how := range readings {
			got, err := parseAll(how.of(string(in)), int(limit))
			is.Equal(err, wantErr)
			is.Equal(got, want)
		}
		got, err := parseAll(chunker{bytes.NewReader(in), int(chunk) + 1}, int(limit))
		is.Equal(err, wantErr)
		is.Equal(got, want)
	})
}
