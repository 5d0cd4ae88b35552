package strictjson

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// Objects of very many names are refused and taken as small ones are.
func TestManyNames(t *testing.T) {
	names := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"%x" : {"a":"b:c","%x":[{"a":"\\"}]},`, i, i+1<<20)
		}
		return b.String()
	}
	many := names(10_000)
	for name, tc := range map[string]struct{ in, want string }{
		"all differ":            {`{` + many + `"last":1}`, ""},
		"at the end":            {`{` + many + `"1f":1}`, `"1f" appears twice`},
		"escaped":               {`{` + many + `"\u0031f" : 1}`, `"1f" appears twice`},
		"inside":                {`{` + many + `"x":[{"y":1,"y":2}]}`, `"y" appears twice`},
		"of two objects":        {`{` + many + `"x":[{"y":1},{"y":2}],"y":3}`, ""},
		"quotes and backslash":  {`{` + many + `"\"":1,"\\":2,"\\\"":3}`, ""},
		"a text is no name":     {`{` + many + `"x":["y","y"],"z":"y"}`, ""},
		"empty, and one of it":  {`{` + many + `"":1,"x":{"":2}}`, ""},
		"a long one":            {`{` + many + `"` + strings.Repeat("n", 1000) + `":1,"` + strings.Repeat("n", 1000) + `":1}`, `n…" appears twice`},
		"and what is not JSON":  {`{` + many + `}`, "invalid"},
		"and what is not ended": {`{` + many, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			err := Object([]byte(tc.in), func([]byte, Value) {})
			if tc.want == "" {
				is.NoErr(err)
				return
			}
			is.True(err != nil)
			is.True(strings.Contains(err.Error(), tc.want))
			is.True(len(err.Error()) < 400)
		})
	}
}

// To know names again takes a few times what they do.
func TestManyNamesTakeFewBytes(t *testing.T) {
	is := is.New(t)
	var b strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&b, `"%x":0,`, i)
	}
	data := []byte(`{` + b.String() + `"last":0}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	is.NoErr(Object(data, func([]byte, Value) {}))
	runtime.ReadMemStats(&after)
	is.True(after.TotalAlloc-before.TotalAlloc < uint64(12*len(data)))
}
