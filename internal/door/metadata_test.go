package door

import (
	"net/url"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/problem"
)

// Metadata is any text of up to 256 bytes, to the byte.
func TestMetadataIsText(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"empty":                               {"", true},
		"256 bytes":                           {strings.Repeat("x", 256), true},
		"257 bytes":                           {strings.Repeat("x", 257), false},
		"a character across byte 255":         {strings.Repeat("x", 254) + "é", true},
		"one of four bytes to byte 256":       {strings.Repeat("x", 252) + "🙂", true},
		"one of which byte 257 would be part": {strings.Repeat("x", 255) + "é", false},
		"a control character in byte 256":     {strings.Repeat("x", 255) + "\n", false},
		"a control character in byte 1":       {"\x00", false},
		"a control character of two bytes":    {strings.Repeat("x", 254) + "\u0085", false},
		"no UTF-8":                            {"\xff", false},
		"half a character in byte 256":        {strings.Repeat("x", 255) + "\xc3", false},
		"a dot":                               {".", true},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var value, key problem.Faults
			kept := metadata(&value, url.Values{"meta.a": {tc.text}})
			is.Equal(value.Err() == nil, tc.ok) // as a value
			is.Equal(value.Err() != nil || kept["a"] == tc.text, true)
			metadata(&key, url.Values{"meta." + tc.text: {"a"}})
			is.Equal(key.Err() == nil, tc.ok && tc.text != "") // as a key
		})
	}
}
