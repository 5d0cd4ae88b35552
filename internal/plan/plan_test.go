package plan

import (
	"testing"

	"github.com/matryer/is"
)

func TestAPlanFits(t *testing.T) {
	is := is.New(t)
	for _, bytes := range []int64{64 << 20, 1 << 30, 64 << 30} {
		m := Of(bytes)
		is.True(m.Streams+m.History+m.State+m.Calls <= bytes*11/16)
		is.True(m.GoLimit() > 0 && m.GoLimit() < bytes*11/16)
	}
	m := Of(1 << 30)
	m.State = 0
	is.Equal(m.GoLimit(), int64(0)) // no limit is no plan
}
