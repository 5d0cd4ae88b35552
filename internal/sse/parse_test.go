package sse_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/sse"
	"realtimehub/internal/sse/ssetest"
)

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

func TestReader(t *testing.T) {
	for _, v := range ssetest.Vectors {
		for _, how := range readings {
			t.Run(v.Name+"/"+how.name, func(t *testing.T) {
				is := is.New(t)
				got, err := ssetest.ParseAll(how.of(v.In), 0)
				is.Equal(err, io.EOF)
				is.Equal(got, v.Want)
				if strings.Contains(v.In, "\r") {
					return
				}
				for _, end := range []string{"\r", "\r\n"} { // the same with the other line ends
					got, err = ssetest.ParseAll(how.of(strings.ReplaceAll(v.In, "\n", end)), 0)
					is.Equal(err, io.EOF)
					is.Equal(got, v.Want)
				}
			})
		}
	}
}

// TestReaderReset has the second connections of format-field-id and format-field-id-2.
func TestReaderReset(t *testing.T) {
	is := is.New(t)
	r := sse.NewReader(strings.NewReader("id: …\nretry: 200\ndata: hello\n\nid:lost\nevent:lost\ndata:lost\r"))
	ev, err := r.Next()
	is.NoErr(err)
	is.Equal(ev, ssetest.MessageID("…", "hello"))
	for range 2 {
		_, err = r.Next()
		is.Equal(err, io.EOF)
	}

	r.Reset(strings.NewReader("\ufeffdata: …\n\n"))
	ev, err = r.Next()
	is.NoErr(err)
	is.Equal(ev, ssetest.MessageID("…", "…"))
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
		r := sse.NewReader(pr)
		events := make(chan sse.Event)
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
				is.Equal(ev, ssetest.Message(data))
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
	r := sse.NewReader(strings.NewReader(":\n\nid:1\n\nid:2\ndata:x\n\n\n:hb\n\nid:3\n\n"))
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
		{"line over it", "data:1\n\ndata:678901\n\n", 1, sse.ErrTooLong},
		{"comment over it", ":1234567890\n", 0, sse.ErrTooLong},
		{"line without an end", "data:678901", 0, sse.ErrTooLong},
		{"data at the limit", "data:123\ndata:12345\n\n", 1, io.EOF},
		{"data over it", "data:123\ndata:12345\ndata\n\n", 0, sse.ErrTooLong},
		{"data is per event", "data:12345\n\ndata:12345\n\ndata:12345\n\n", 3, io.EOF},
	} {
		for _, how := range readings {
			t.Run(c.name+"/"+how.name, func(t *testing.T) {
				is := is.New(t)
				got, err := ssetest.ParseAll(how.of(c.in), 10)
				is.Equal(err, c.err)
				is.Equal(len(got.Events), c.events)
			})
		}
	}
}

func TestReaderError(t *testing.T) {
	is := is.New(t)
	broken := errors.New("broken")
	r := sse.NewReader(io.MultiReader(strings.NewReader("data:1\n\nid:2\ndata:2\n"), iotest.ErrReader(broken), strings.NewReader("\n")))
	ev, err := r.Next()
	is.NoErr(err)
	is.Equal(ev, ssetest.Message("1"))
	for range 2 { // final: nothing after it is read
		_, err = r.Next()
		is.Equal(err, broken)
	}
	is.Equal(r.LastEventID(), "")
}

// plain is the standard's algorithm once more, over a whole stream and as plainly as can be.
func plain(in []byte) (events []sse.Event, lastID string) {
	s := strings.TrimPrefix(sse.DecodeUTF8(in), "\ufeff")
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
				events = append(events, sse.Event{ID: lastID, Type: typ, Data: strings.Join(data, "\n")})
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
	for i, v := range ssetest.Vectors {
		f.Add([]byte(v.In), uint8(i), uint16(0))
		f.Add([]byte(v.In), uint8(i), uint16(i))
	}
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8, limit uint16) {
		is := is.New(t)
		want, wantErr := ssetest.ParseAll(bytes.NewReader(in), int(limit))
		is.True(wantErr == io.EOF || wantErr == sse.ErrTooLong)
		if wantErr == io.EOF {
			events, lastID := plain(in)
			is.Equal(want.Events, events)
			is.Equal(want.LastID, lastID)
		}
		for _, how := range readings {
			got, err := ssetest.ParseAll(how.of(string(in)), int(limit))
			is.Equal(err, wantErr)
			is.Equal(got, want)
		}
		got, err := ssetest.ParseAll(ssetest.Chunker{R: bytes.NewReader(in), N: int(chunk) + 1}, int(limit))
		is.Equal(err, wantErr)
		is.Equal(got, want)
	})
}
