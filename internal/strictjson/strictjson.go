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
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxDepth is how many arrays and objects may stand inside one another. It
// bounds the stack of every parser that reads what we pass on.
const MaxDepth = 64

var errTooDeep = fmt.Errorf("nested deeper than %d", MaxDepth)

// Object reads data as one object and calls member for each name and raw value,
// in order. What member is given aliases a buffer and is valid during the call
// only. An error says what is malformed; members before it were seen already.
func Object(data []byte, member func(name string, value []byte)) error {
	return read(data, '{', func(dec *decoder) error {
		name, err := dec.ReadValue()
		if err != nil {
			return err
		}
		key := dec.name(name)
		value, err := dec.ReadValue()
		if err == nil {
			member(key, value)
		}
		return err
	})
}

// Array reads data as one array and calls element for each raw value.
func Array(data []byte, element func(i int, value []byte)) error {
	i := 0
	return read(data, '[', func(dec *decoder) error {
		value, err := dec.ReadValue()
		if err == nil {
			element(i, value)
			i++
		}
		return err
	})
}

// decoder is one that is used again, with the names it has read, so that those
// of a contract are made into strings once.
type decoder struct {
	jsontext.Decoder
	data  bytes.Buffer
	names map[string]string
}

const (
	maxNames = 64 // that a decoder keeps
	maxName  = 32 // bytes of one that is kept
)

var decoders = sync.Pool{New: func() any { return &decoder{names: map[string]string{}} }}

func (d *decoder) name(quoted []byte) string {
	if name, ok := d.names[string(quoted)]; ok {
		return name
	}
	name, _ := String(quoted)
	if len(quoted) <= maxName && len(d.names) < maxNames {
		d.names[string(quoted)] = name
	}
	return name
}

func read(data []byte, open jsontext.Kind, next func(*decoder) error) error {
	if tooDeep(data) {
		return errTooDeep
	}
	dec := decoders.Get().(*decoder)
	defer decoders.Put(dec)
	dec.data = *bytes.NewBuffer(data)
	dec.Reset(&dec.data)
	if kind := dec.PeekKind(); kind > 0 && kind != open {
		return fmt.Errorf("must begin with %q", byte(open))
	}
	if _, err := dec.ReadToken(); err != nil {
		return explain(err)
	}
	for closing := open + 2; dec.PeekKind() != closing; { // '[' and ']', '{' and '}' are two apart
		if err := next(dec); err != nil {
			return explain(err)
		}
	}
	dec.ReadToken() // the closing one just peeked at
	if _, err := dec.ReadToken(); err != io.EOF {
		return errors.New("trailing data after the JSON value")
	}
	return nil
}

// explain drops the library's prefix and says where; it repeats nothing of the
// content but names.
func explain(err error) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
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

// IsNull says whether a raw value is the literal null.
func IsNull(value []byte) bool { return string(value) == "null" }

// String reads a raw value as a string; ok is false when it is something else.
func String(value []byte) (s string, ok bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	if inner := value[1 : len(value)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	b, err := jsontext.AppendUnquote(nil, value)
	return string(b), err == nil
}

// Compact copies a valid raw value without white space between its tokens;
// strings and numbers stay as they were sent.
func Compact(value []byte) []byte {
	v := jsontext.Value(value).Clone()
	if v.Kind() == '"' {
		return v
	}
	if err := v.Compact(); err != nil {
		return nil // not reached for what Object and Array hand out
	}
	return v
}

// AppendQuote appends s as a JSON string; invalid UTF-8 becomes U+FFFD.
func AppendQuote(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}
