package event

import (
	"fmt"
	"testing"

	"github.com/matryer/is"
)

// What either of two filters wants is wanted by both together, and by none is everything.
func TestEitherFilter(t *testing.T) {
	is := is.New(t)
	filter := func(patterns ...string) *Filter {
		f, errs := ParseFilter(patterns)
		is.Equal(len(errs), 0)
		return f
	}
	is.Equal(filter("a.b", "c.*").Or(filter("c.*", "d.e")).Patterns(), []string{"a.b", "d.e", "c.*", "c.*"})
	is.Equal(filter([]string{}...).Or(filter("a.b")).Patterns(), []string{"a.b"})
	is.True(filter("a.b").Or(nil) == nil)
	is.True(filter("*").Or(filter("a.b")) == nil)
	var many []string
	for i := range MaxAskedProfiles {
		many = append(many, fmt.Sprintf("a.b%d", i))
	}
	is.True(filter(many...).Or(filter("c.*")).Wants("c.d"))
}
