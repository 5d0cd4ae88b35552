package engine

import (
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/matryer/is"
)

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
	e := NewEngine(Config{})
	wire := func(s *Stream) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return string(s.peekLocked(func() []byte { return nil }))
	}
	for framed, want := range map[bool]string{
		false: "data: a\n\ndata: b\n\nevent: last\ndata: x\n\n",
		true:  "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n15\r\nevent: last\ndata: x\n\n\r\n0\r\n\r\n",
	} {
		s := e.NewStream(testWords, func(error) {})
		s.chunked = framed
		deliver([]*Stream{s}, eventFrame("a"), eventFrame("b"))
		s.Close(testLast)
		is.Equal(wire(s), want)
		for at := range want { // written so far, however little
			s := e.NewStream(testWords, func(error) {})
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
