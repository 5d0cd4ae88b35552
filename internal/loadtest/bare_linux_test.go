package main

import (
	"testing"

	"realtimehub/internal/loadtest/reader"

	"github.com/matryer/is"
)

// The bare loop's answer is one as the hub's: in chunks, with an event in each, and as
// large.
func TestBareSpeaksInChunks(t *testing.T) {
	is := is.New(t)
	var r reader.Reader
	is.NoErr(r.Feed([]byte(bareHead)))
	is.Equal(r.Events, 1)
	for _, size := range []int{0, 300, 400, 4000} {
		frame := frameOf(size)
		is.True(size == 0 || len(frame) == size)
		is.NoErr(r.Feed(frame))
	}
	is.Equal(r.Events, 5)
	is.NoErr(r.Feed([]byte("0\r\n\r\ndata: x\n\n")))
	is.Equal(r.Events, 5) // no chunk was open: that was the last
}
