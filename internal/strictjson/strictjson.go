// Package strictjson reads JSON objects the way a contract needs them read:
// whatever two parsers could understand differently is refused, and the caller
// sees every member, so that it can name all that is wrong at once.
//
// Refused are trailing data, duplicate names, invalid UTF-8 (RFC 8259 §8.1,
// RFC 7493 §2) and nesting deeper than [MaxDepth]. Names are compared to the
// letter: "TENANTID" is not "tenantId".
package strictjson

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how many arrays and objects may stand inside one another. It
// bounds the stack of every parser that reads what we pass on.
const MaxDepth = 64

var errTooDeep = fmt.Errorf("nested deeper than %d", MaxDepth)

// Value is a valid value that [Object] has handed out: it aliases the data, and
// can be read further without being checked again.
type Value []byte

// Object reads data as one object and calls member for each name and value, in
// order. Both alias data: they are valid during the call only. An error says
// what is malformed; no member was seen then.
func Object(data []byte, member func(name []byte, value Value)) error {
	v, err := check(data)
	if err == nil {
		v.Object(member)
	}
	return err
}

// Object calls member for each of v's; false when v is no object.
func (v Value) Object(member func(name []byte, value Value)) bool {
	if len(v) == 0 || v[0] != '{' {
		return false
	}
	for i := v.next(1); v[i] != '}'; {
		end := v.end(i)
		name := v[i:end]
		i = v.next(end)
		end = v.end(i)
		plain := []byte(name[1 : len(name)-1])
		if bytes.IndexByte(plain, '\\') >= 0 {
			plain, _ = jsontext.AppendUnquote(nil, []byte(name))
		}
		member(plain, v[i:end:end])
		i = v.next(end)
	}
	return true
}

// Array calls element for each of v's; false when v is no array.
func (v Value) Array(element func(i int, value Value)) bool {
	if len(v) == 0 || v[0] != '[' {
		return false
	}
	i := v.next(1)
	for n := 0; v[i] != ']'; n++ {
		end := v.end(i)
		element(n, v[i:end:end])
		i = v.next(end)
	}
	return true
}

// next skips what stands between values.
func (v Value) next(i int) int {
	for ; ; i++ {
		switch v[i] {
		case ' ', '\t', '\r', '\n', ',', ':':
		default:
			return i
		}
	}
}

// end is where the value that begins at i ends.
func (v Value) end(i int) int {
	for depth := 0; ; i++ {
		switch v[i] {
		case '"':
			for i++; v[i] != '"'; i++ {
				if v[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case ' ', '\t', '\r', '\n', ',', ':':
			continue
		default: // a number or a word
			for i+1 < len(v) && v[i+1] > ' ' && v[i+1] != ',' && v[i+1] != ']' && v[i+1] != '}' {
				i++
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
}

// decoder is one that is used again.
type decoder struct {
	jsontext.Decoder
	data bytes.Buffer
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// Bounds of what outlives a call, and of what is repeated.
const (
	keptBytes = 64 << 10 // of data, for its decoder to be used again
	nameBytes = 256
	fewNames  = 256 // that the library may compare
)

// check says whether data is one valid object.
func check(data []byte) (Value, error) {
	if tooDeep(data) {
		return nil, errTooDeep
	}
	dec := decoders.Get().(*decoder)
	if len(data) <= keptBytes { // else it has grown with the names
		defer decoders.Put(dec)
	}
	dec.data = *bytes.NewBuffer(data)
	many := bytes.Count(data, []byte(":")) > fewNames
	dec.Reset(&dec.data, jsontext.AllowDuplicateNames(many)) // whose check takes 17 times what the names do
	if kind := dec.PeekKind(); kind > 0 && kind != jsontext.KindBeginObject {
		return nil, errors.New("must begin with '{'")
	}
	value, err := dec.ReadValue()
	if err != nil {
		return nil, explain(err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errors.New("trailing data after the JSON value")
	}
	if many {
		if name := twice(Value(value)); name != nil {
			return nil, errTwice(string(name))
		}
	}
	return Value(value), nil
}

// namePlace is where a name stands, and what it is known again by.
type namePlace struct {
	hash uint64
	at   int
}

// twice is a name that stands twice in one object of v, which is valid; nil if none
// does. It takes 16 bytes a name of what is open at a time.
func twice(v Value) []byte {
	seed := maphash.MakeSeed()
	var names []namePlace // of all objects that are open
	var objects []int     // where theirs begin
	var one, other []byte
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '{':
			objects = append(objects, len(names))
		case '"':
			end := v.end(i)
			if v[v.blank(end)] == ':' {
				one = v.unquote(one, i)
				if len(names) == cap(names) {
					names = slices.Grow(names, len(names)+fewNames)
				}
				names = append(names, namePlace{maphash.Bytes(seed, one), i})
			}
			i = end - 1
		case '}':
			last := len(objects) - 1
			own := names[objects[last]:]
			slices.SortFunc(own, func(a, b namePlace) int { return cmp.Compare(a.hash, b.hash) })
			for n := 1; n < len(own); n++ {
				if own[n].hash != own[n-1].hash {
					continue
				}
				one, other = v.unquote(one, own[n-1].at), v.unquote(other, own[n].at)
				if bytes.Equal(one, other) {
					return one
				}
			}
			names, objects = names[:objects[last]], objects[:last]
		}
	}
	return nil
}

// unquote is the text that begins at i, in b's place.
func (v Value) unquote(b []byte, i int) []byte {
	b, _ = jsontext.AppendUnquote(b[:0], []byte(v[i:v.end(i)]))
	return b
}

// blank skips white space.
func (v Value) blank(i int) int {
	for i < len(v)-1 && (v[i] == ' ' || v[i] == '\t' || v[i] == '\r' || v[i] == '\n') {
		i++
	}
	return i
}

func errTwice(name string) error {
	if len(name) > nameBytes {
		name = strings.ToValidUTF8(name[:nameBytes], "") + "…"
	}
	return fmt.Errorf("%q appears twice in one object", name)
}

// explain drops the library's prefix and says where; it repeats nothing of the
// content but names.
func explain(err error) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if syntax.Err == jsontext.ErrDuplicateName {
			return errTwice(syntax.JSONPointer.LastToken())
		}
		return fmt.Errorf("%v at byte %d", syntax.Err, syntax.ByteOffset)
	}
	if err == io.EOF {
		return errors.New("empty")
	}
	return err
}

// tooDeep counts brackets outside strings; that the rest is JSON is not its
// concern.
func tooDeep(data []byte) bool {
	if bytes.Count(data, []byte("{"))+bytes.Count(data, []byte("[")) <= MaxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// IsNull says whether v is the literal null.
func (v Value) IsNull() bool { return string(v) == "null" }

// String reads v as a string; ok is false when it is something else.
func (v Value) String() (s string, ok bool) {
	if len(v) == 0 || v[0] != '"' {
		return "", false
	}
	if inner := v[1 : len(v)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	b, err := jsontext.AppendUnquote(nil, []byte(v))
	return string(b), err == nil
}

// Compact is v without white space between its tokens, a copy unless v is a string,
// which shares v's bytes; strings and numbers stay as they were sent.
func (v Value) Compact() []byte {
	if jsontext.Value(v).Kind() == '"' {
		return v[:len(v):len(v)]
	}
	c := jsontext.Value(v).Clone()
	if err := c.Compact(); err != nil {
		return nil // not reached for what Object and Array hand out
	}
	return c
}

// AppendQuote appends s as a JSON string; invalid UTF-8 becomes U+FFFD.
func AppendQuote(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}
