package event

import (
	"testing"

	"github.com/matryer/is"
)

// A profile's text names it and no other, whatever colons there are, and costs nothing to read.
func TestTheTextOfAProfile(t *testing.T) {
	is := is.New(t)
	for text, p := range map[ProfileText]Profile{
		"user:1": {"user", "1"}, "a:b:c": {"a", "b:c"}, "a::": {"a", ":"}, ":": {},
	} {
		is.Equal(p.Text(), text)
		is.Equal(text.Profile(), p)
		is.Equal(testing.AllocsPerRun(10, func() { _ = text.Profile() }), 0.0)
	}
}
