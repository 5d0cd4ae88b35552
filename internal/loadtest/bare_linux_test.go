package main

import (
	"testing"

	"github.com/matryer/is"
)

// The bare loop's answer is one as the hub's: in chunks, with an event in each, and as
// large.
func TestBareSpeaksInChunks(t *testing.T) {
	is := is.New(t)
	var r reader
	is.NoErr(r.feed([]byte(bareHead)))
	is.Equal(r.events, 1)
	for _, size := range []int{0, 300, 400, 4000} {
		frame := frameOf(size)
		is.True(size == 0 || len(frame) == size)
		is.NoErr(r.feed(frame))
	}
	is.Equal(r.events, 5)
	is.Equal(r.phase, inSize) // no chunk is open
}
