package socket

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/matryer/is"
)

// heard is a listener that writes down what it is told.
type heard struct{ list []string }

func (h *heard) message(text []byte) { h.list = append(h.list, "message "+string(text)) }
func (h *heard) ping(payload []byte) { h.list = append(h.list, "ping "+string(payload)) }
func (h *heard) close(code ws.StatusCode) {
	h.list = append(h.list, fmt.Sprint("close ", code))
}

// from is a frame as a client sends it. Its first byte has FIN, the reserved bits and the opcode.
func from(first byte, payload string) []byte {
	h := ws.Header{Fin: first&0x80 != 0, Rsv: first >> 4 & 7, OpCode: ws.OpCode(first & 0xf), Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: int64(len(payload))}
	var b bytes.Buffer
	ws.WriteHeader(&b, h)
	text := []byte(payload)
	ws.Cipher(text, h.Mask, 0)
	return append(b.Bytes(), text...)
}

// First bytes of frames.
const (
	text, binaryData, closing, ping, pong = 0x81, 0x82, 0x88, 0x89, 0x8a
	begins, goesOn, ends                  = 0x01, 0x00, 0x80
)

// What is heard does not depend on how the bytes come in pieces; nothing is kept afterwards.
func TestReader(t *testing.T) {
	long := strings.Repeat("x", mostMessage)
	for name, tc := range map[string]struct {
		sent  []byte
		want  []string
		fault *fault
	}{
		"a message":                            {from(text, "hello"), []string{"message hello"}, nil},
		"an empty message":                     {from(text, ""), []string{"message "}, nil},
		"two":                                  {bytes.Join([][]byte{from(text, "a"), from(text, "b")}, nil), []string{"message a", "message b"}, nil},
		"fragments":                            {bytes.Join([][]byte{from(begins, "a"), from(goesOn, ""), from(goesOn, "b"), from(ends, "c")}, nil), []string{"message abc"}, nil},
		"of nothing":                           {bytes.Join([][]byte{from(begins, ""), from(ends, "")}, nil), []string{"message "}, nil},
		"control between":                      {bytes.Join([][]byte{from(begins, "a"), from(ping, "p"), from(pong, ""), from(ends, "b")}, nil), []string{"ping p", "message ab"}, nil},
		"a character cut":                      {bytes.Join([][]byte{from(begins, "\xe2\x82"), from(ends, "\xac")}, nil), []string{"message €"}, nil},
		"half a character":                     {bytes.Join([][]byte{from(begins, "€\xe2"), from(ends, "\x82")}, nil), nil, errUTF8},
		"no UTF-8":                             {from(text, "\xff"), nil, errUTF8},
		"the longest":                          {from(text, long), []string{"message " + long}, nil},
		"too long":                             {from(text, long+"x"), nil, errTooLong},
		"too long in fragments":                {bytes.Join([][]byte{from(begins, long), from(ends, "x")}, nil), nil, errTooLong},
		"binary":                               {from(binaryData, "x"), nil, errBinary},
		"the longest ping":                     {from(ping, long[:125]), []string{"ping " + long[:125]}, nil},
		"a ping of 126 bytes":                  {from(ping, long[:126]), nil, protocol(ws.ErrProtocolControlPayloadOverflow)},
		"a ping in fragments":                  {from(0x09, ""), nil, protocol(ws.ErrProtocolControlNotFinal)},
		"not begun":                            {from(ends, "x"), nil, protocol(ws.ErrProtocolContinuationUnexpected)},
		"begun twice":                          {bytes.Join([][]byte{from(begins, "a"), from(text, "b")}, nil), nil, protocol(ws.ErrProtocolContinuationExpected)},
		"a reserved bit":                       {from(0xc1, "x"), nil, protocol(ws.ErrProtocolNonZeroRsv)},
		"a reserved opcode":                    {from(0x83, "x"), nil, protocol(ws.ErrProtocolOpCodeReserved)},
		"a reserved control":                   {from(0x8b, ""), nil, protocol(ws.ErrProtocolOpCodeReserved)},
		"no mask":                              {[]byte("\x81\x01x"), nil, protocol(ws.ErrProtocolMaskRequired)},
		"a length of 2^63":                     {[]byte("\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00abcd"), nil, errLength},
		"a length in more bytes than it takes": {[]byte("\x81\xfe\x00\x01abcdx"), nil, errLength},
		"in more still":                        {[]byte("\x81\xff\x00\x00\x00\x00\x00\x00\xff\xffabcd"), nil, errLength},
		"a length of 2^63-1":                   {[]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xffabcd"), nil, errTooLong},
		"close":                                {from(closing, ""), []string{"close 1005"}, nil},
		"close for a reason":                   {from(closing, "\x03\xe8bye"), []string{"close 1000"}, nil},
		"close of one's own":                   {from(closing, "\x0f\xa0"), []string{"close 4000"}, nil},
		"close, to come again":                 {from(closing, "\x03\xf5"), []string{"close 1013"}, nil},
		"close between":                        {bytes.Join([][]byte{from(begins, "a"), from(closing, "")}, nil), []string{"close 1005"}, nil},
		"more after close":                     {bytes.Join([][]byte{from(closing, ""), from(text, "a")}, nil), []string{"close 1005"}, nil},
		"half a code":                          {from(closing, "\x03"), nil, errClose},
		"a code never sent":                    {from(closing, "\x03\xed"), nil, errClose},
		"nobody's code":                        {from(closing, "\x13\x88"), nil, errClose},
		"no UTF-8 in a reason":                 {from(closing, "\x03\xe8\xff"), nil, errUTF8},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			for size := 1; size <= len(tc.sent); size += 1 + size*3 {
				var r reader
				var h heard
				var bad *fault
				for rest := bytes.Clone(tc.sent); len(rest) > 0 && bad == nil && !r.closed; {
					n := min(size, len(rest))
					bad = r.read(rest[:n:n], &h)
					rest = rest[n:]
					is.True(r.kept() < 3*(mostMessage+14)) // whatever is sent
				}
				is.Equal(bad, tc.fault)
				if tc.fault == nil || tc.want != nil {
					is.Equal(h.list, tc.want)
				}
				is.Equal(r.kept(), 0)
			}
		})
	}
}

func protocol(err error) *fault { return &fault{ws.StatusProtocolError, err.Error()} }

// Any bytes, in pieces of any size: what is heard is the same, valid, within its bounds.
func FuzzReader(f *testing.F) {
	f.Add(from(text, "hello"), 3)
	f.Add(append(from(begins, "a"), append(from(ping, "p"), from(ends, "é")...)...), 1)
	f.Add(from(closing, "\x03\xe8bye"), 2)
	f.Add([]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xffabcd"), 9)
	f.Fuzz(func(t *testing.T, sent []byte, size int) {
		if size < 1 {
			size = 1
		}
		var whole, pieces reader
		var all, some heard
		one := whole.read(bytes.Clone(sent), &all)
		var other *fault
		for rest := bytes.Clone(sent); len(rest) > 0 && other == nil && !pieces.closed; {
			n := min(size, len(rest))
			other = pieces.read(rest[:n:n], &some)
			rest = rest[n:]
			if pieces.kept() > 3*(mostMessage+14) {
				t.Fatal("kept ", pieces.kept())
			}
		}
		if fmt.Sprint(one, all.list) != fmt.Sprint(other, some.list) {
			t.Fatalf("%v %q whole, %v %q in pieces of %d", one, all.list, other, some.list, size)
		}
		for _, said := range all.list {
			if len(said) > len("message ")+mostMessage || strings.HasPrefix(said, "message ") && strings.ToValidUTF8(said, "") != said {
				t.Fatalf("%.100q", said)
			}
		}
	})
}

// A close frame's reason is cut to what a control frame may have.
func TestLongReason(t *testing.T) {
	is.New(t).Equal(len(appendClose(nil, 1002, strings.Repeat("x", 500))), 2+mostControl)
}
