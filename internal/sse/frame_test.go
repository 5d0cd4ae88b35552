package sse

import (
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// FuzzAppendEvent: what is framed is read back as it was, and nothing else is.
func FuzzAppendEvent(f *testing.F) {
	f.Add("e-1", "message.received", "{\"a\":1}")
	f.Add("", "", "a\nid: forged\r\nevent: x\rdata: y\n")
	f.Add("a\nb", "x", "y")
	f.Fuzz(func(t *testing.T, id, name, data string) {
		b, err := AppendEvent(nil, id, name, []byte(data))
		if forged := strings.ContainsAny(id+name, "\r\n\x00"); forged != (err != nil) {
			t.Fatalf("id %q, name %q: %v", id, name, err)
		}
		if err != nil {
			if len(b) > 0 {
				t.Fatalf("refused, and yet wrote %q", b)
			}
			return
		}
		want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
		r := NewReader(bytes.NewReader(b))
		got, err := r.Next()
		if want == "" { // no data, no event: the standard's own rule
			if err == nil && got.Data != "" {
				t.Fatalf("read %q", got.Data)
			}
			return
		}
		if name == "" {
			name = "message"
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "") }
		strip := func(s string) string { return strings.ReplaceAll(s, "\ufffd", "") }
		if err != nil || strip(got.Data) != strip(valid(want)) || strip(got.Type) != strip(valid(name)) || strip(got.ID) != strip(valid(id)) {
			t.Fatalf("%q: read %+v, %v", b, got, err)
		}
		if _, err := r.Next(); err == nil {
			t.Fatalf("%q holds a second event", b)
		}
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	data := []byte(`{"id":"x","payload":"` + strings.Repeat("y", 200) + `"}`)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		AppendEvent(buf, "0123456789abcdef-1", "message.received", data)
	}
}

// A frame is its events as one chunk of HTTP/1.1, and costs so few bytes more; where its
// buffer has room for them nothing is copied to another.
func TestAFrameIsAChunk(t *testing.T) {
	is := is.New(t)
	for size, more := range map[int]int{3: 5, 15: 5, 16: 6, 255: 6, 256: 7, 400: 7, 4095: 7, 4096: 8, 60 << 10: 8, 1<<20 - 1: 9} {
		data := append(make([]byte, 0, size+ChunkRoom), bytes.Repeat([]byte("x"), size)...)
		f := NewFrame(data, false)
		is.Equal(f.Len(), size+more)
		got, err := io.ReadAll(httputil.NewChunkedReader(io.MultiReader(bytes.NewReader(f.chunk), strings.NewReader("0\r\n\r\n"))))
		is.NoErr(err)
		is.Equal(len(got), size)
		is.Equal(string(got), string(f.data))
		is.Equal(&f.chunk[0], &data[0]) // in place
		is.Equal(cap(f.data), size)     // what is appended to it does not reach the chunk
	}
	is.Equal(NewFrame(nil, false).Len(), 0) // a chunk of nothing would end the body
}

// What a client without chunks has of frames is their events alone; one with them has the
// last chunk behind the last words.
func TestFramesOfTwoFramings(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{Cut: func() *Frame { return testCut }})
	wire := func(s *Stream) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return string(s.peekLocked(func() []byte { return nil }))
	}
	for framed, want := range map[bool]string{
		false: "data: a\n\ndata: b\n\nevent: last\ndata: x\n\n",
		true:  "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n15\r\nevent: last\ndata: x\n\n\r\n0\r\n\r\n",
	} {
		s := e.NewStream(func(error) {})
		s.chunked = framed
		deliver([]*Stream{s}, eventFrame("a"), eventFrame("b"))
		s.Close(testLast)
		is.Equal(wire(s), want)
		for at := range want { // written so far, however little
			s := e.NewStream(func(error) {})
			s.chunked = framed
			deliver([]*Stream{s}, eventFrame("a"), eventFrame("b"))
			s.Close(testLast)
			wire(s)
			s.mu.Lock()
			s.advanceLocked(at)
			s.mu.Unlock()
			is.Equal(wire(s), want[at:])
			s.mu.Lock()
			s.advanceLocked(len(want) - at)
			is.Equal(s.owed, 0)
			is.Equal(len(s.pending), 0)
			s.mu.Unlock()
		}
	}
}
