package signalr

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/problem"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// Records are taken one after the other, up to their bound, and what is torn is none.
func TestNext(t *testing.T) {
	is := is.New(t)
	first, rest, err := Next([]byte("{}\x1e{\"type\":6}\x1e"))
	is.NoErr(err)
	is.Equal(string(first), "{}")
	second, rest, err := Next(rest)
	is.NoErr(err)
	is.Equal(string(second), `{"type":6}`)
	is.Equal(len(rest), 0)

	_, _, err = Next([]byte(`{"type":6}`))
	is.Equal(err, errTorn)
	_, _, err = Next(nil)
	is.Equal(err, errTorn)

	longest := strings.Repeat("x", maxRecord)
	record, _, err := Next([]byte(longest + "\x1e"))
	is.NoErr(err)
	is.Equal(string(record), longest)
	_, _, err = Next([]byte(longest + "x\x1e"))
	is.Equal(err, errLong)
}

// Messages are read as the npm client writes them.
func TestParse(t *testing.T) {
	is := is.New(t)
	m, err := Parse([]byte(`{"protocol":"json","version":1}`))
	is.NoErr(err)
	is.Equal(m.Type, Handshake)

	m, err = Parse([]byte(`{"arguments":["7"],"invocationId":"0","target":"StartTyping","type":1}`))
	is.NoErr(err)
	is.Equal(m.Type, Invocation)
	is.Equal(m.ID, "0")
	is.Equal(m.Target, "StartTyping")
	is.Equal(string(m.Arguments), `["7"]`)
	is.True(!m.Streams)

	m, err = Parse([]byte(`{"arguments":[],"streamIds":["1"],"target":"Touch","type":1}`))
	is.NoErr(err)
	is.True(m.Streams)
	is.Equal(m.ID, "") // nobody waits

	for _, typ := range []string{"2", "3", "5", "6", "7", "8", "9", "99"} { // unknown ones are for later versions
		_, err := Parse([]byte(`{"type":` + typ + `}`))
		is.NoErr(err)
	}
}

// What is no message is refused, and the error names the field.
func TestParseRefuses(t *testing.T) {
	for record, fields := range map[string]string{
		``:                                      "",
		`[]`:                                    "",
		`{"type":6}{"type":6}`:                  "",
		`{"type":6,"type":1}`:                   "",
		`{"type":6,"x":"` + "\xff" + `"}`:       "",
		strings.Repeat(`{"x":`, 100):            "",
		`{}`:                                    "type",
		`{"type":0}`:                            "type",
		`{"type":-1}`:                           "type",
		`{"type":"1"}`:                          "type",
		`{"type":1.5}`:                          "type",
		`{"type":99999999999999999999}`:         "type",
		`{"type":1}`:                            "target arguments",
		`{"type":1,"target":"","arguments":[]}`: "target",
		`{"type":1,"target":5,"arguments":[]}`:  "target",
		`{"type":1,"target":"T","arguments":1}`: "arguments",
		`{"type":1,"target":"T","arguments":[],"invocationId":5}`: "invocationId",
		`{"type":4,"target":"T","arguments":[]}`:                  "invocationId",
		`{"protocol":"messagepack","version":1}`:                  "protocol",
		`{"protocol":"json","version":2}`:                         "version",
		`{"protocol":"json"}`:                                     "version",
	} {
		_, err := Parse([]byte(record))
		var names []string
		for _, fault := range problem.Fields(err) {
			names = append(names, fault.Field)
		}
		if err == nil || strings.Join(names, " ") != fields {
			t.Errorf("%.60s: %v", record, err)
		}
	}
}

// A completion has a result or an error, never both, and what a client named comes back as it
// was.
func TestCompletion(t *testing.T) {
	is := is.New(t)
	is.Equal(string(appendResult(nil, "1", nil)), `{"type":3,"invocationId":"1"}`+"\x1e")
	is.Equal(string(appendResult(nil, "1", []byte(`[7]`))), `{"type":3,"invocationId":"1","result":[7]}`+"\x1e")
	is.Equal(string(appendFailure(nil, `"`, "no\x1e")), `{"type":3,"invocationId":"\"","error":"no\u001e"}`+"\x1e")
}

// No record that a client can send crashes the reader, or comes back as more than one.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("{\"protocol\":\"json\",\"version\":1}\x1e{\"type\":6}\x1e"))
	f.Add([]byte("{\"type\":1,\"target\":\"Touch\",\"arguments\":[],\"invocationId\":\"\\u001e\"}\x1e"))
	f.Add([]byte("\x1e\x1e{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			record, rest, err := Next(b)
			if err != nil {
				return
			}
			if len(record) > maxRecord || len(record)+1+len(rest) != len(b) {
				t.Fatalf("a record of %d bytes and %d that follow, of %d", len(record), len(rest), len(b))
			}
			m, err := Parse(record)
			b = rest
			if err != nil {
				continue
			}
			answer, more, err := Next(appendFailure(nil, m.ID, m.Target))
			if len(m.ID)+len(m.Target) < maxRecord/8 && (err != nil || len(more) > 0 || !json.Valid(answer) || bytes.IndexByte(answer, separator) >= 0) {
				t.Fatalf("%q is answered with %q: %v", record, answer, err)
			}
		}
	})
}
