package sse

import (
	"io"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// A line without an end is given up at the default bound, and no more of it is kept.
func TestReaderDefaultLimit(t *testing.T) {
	is := is.New(t)
	r := NewReader(io.MultiReader(strings.NewReader("id:1\n\n:"), endless{}))
	for range 2 {
		_, err := r.Next()
		is.Equal(err, ErrTooLong)
	}
	is.Equal(r.LastEventID(), "1")
	is.True(cap(r.line) < 2*DefaultMaxLine)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
