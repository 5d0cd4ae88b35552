package strictjson

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestObjectRefusesWhatTwoParsersCouldReadDifferently(t *testing.T) {
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	for name, tc := range map[string]struct{ in, want string }{
		"plain":            {`{"a":1,"b":{"a":2}}`, ""},
		"empty object":     {` {} `, ""},
		"escaped name":     {`{"\u0061":1}`, ""},
		"depth 64":         {deep(63), ""},
		"brackets in text": {`{"a":"` + strings.Repeat("[", 100) + `\"` + strings.Repeat("{", 100) + `"}`, ""},
		"depth 65":         {deep(64), "nested deeper"},
		"empty":            {``, "empty"},
		"not an object":    {`[1]`, "must begin with"},
		"null":             {`null`, "must begin with"},
		"trailing value":   {`{"a":1}{}`, "trailing"},
		"trailing garbage": {`{"a":1} x`, "trailing"},
		"duplicate":        {`{"a":1,"a":2}`, `"a" appears twice`},
		"duplicate inside": {`{"a":{"b":1,"b":2}}`, `"b" appears twice`},
		"escaped double":   {`{"a":1,"\u0061":2}`, `"a" appears twice`},
		"invalid UTF-8":    {"{\"a\":\"\xff\"}", "UTF-8"},
		"lone surrogate":   {`{"a":"\ud800"}`, "surrogate"},
		"control in text":  {"{\"a\":\"\n\"}", "invalid"},
		"cut":              {`{"a":`, "unexpected EOF"},
		"comment":          {`{"a":1/*x*/}`, "invalid"},
		"byte order mark":  {"\ufeff{}", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			err := Object([]byte(tc.in), func([]byte, Value) {})
			if tc.want == "" {
				is.NoErr(err)
				return
			}
			is.True(err != nil)                             // refused
			is.True(strings.Contains(err.Error(), tc.want)) // and says why
		})
	}
}

func TestMembersAndElementsComeInOrder(t *testing.T) {
	is := is.New(t)
	var got []string
	is.NoErr(Object([]byte(`{"a": "x\ny", "b" : [ 1 , {"c" : 2} ]}`), func(name []byte, value Value) {
		got = append(got, string(name), string(value.Compact()))
	}))
	is.Equal(got, []string{"a", `"x\ny"`, "b", `[1,{"c":2}]`})

	got = nil
	is.NoErr(Object([]byte(`{"list":["a",null,5]}`), func(_ []byte, list Value) {
		is.True(list.Array(func(i int, value Value) {
			s, ok := value.String()
			is.Equal(ok, i == 0)
			is.Equal(value.IsNull(), i == 1)
			got = append(got, s)
		}))
	}))
	is.Equal(got, []string{"a", "", ""})
}

// FuzzObject: what is accepted, encoding/json accepts too and understands alike.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a":"\u0000\ud83d\ude00","b":[1.5e300,true,{}]}`))
	f.Add([]byte(`{"a":1}x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := map[string]json.RawMessage{}
		if Object(data, func(name []byte, value Value) { got[string(name)] = json.RawMessage(value.Compact()) }) != nil {
			return
		}
		want := map[string]json.RawMessage{}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", data, err)
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %d members, encoding/json has %d", data, len(got), len(want))
		}
		for name := range want {
			if s, ok := Value(got[name]).String(); ok {
				var w string
				if err := json.Unmarshal(want[name], &w); err != nil || w != s {
					t.Fatalf("%q: %q, encoding/json has %q", data, s, w)
				}
			}
		}
	})
}
