package sized

import (
	"testing"

	"github.com/matryer/is"
)

// Block is never less than what Go takes, and not much more.
func TestBlock(t *testing.T) {
	is := is.New(t)
	for _, n := range []int{0, 1, 16, 17, 100, 256, 257, 1025, 4097, 8193, 20_481, 32_768, 32_769, 100_000} {
		took := int64(cap(append([]byte(nil), make([]byte, n)...))) // rounded up to what it takes
		is.True(float64(Block(n)) >= 0.94*float64(took))
		is.True(float64(Block(n)) <= 1.13*float64(took)+16)
	}
}
