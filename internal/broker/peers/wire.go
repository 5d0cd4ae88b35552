package peers

import "encoding/binary"

// The kinds of messages: their first byte.
const (
	kindBeat     = 'b' // node; to one that is new also others, and how many milliseconds ago each was heard
	kindBye      = 'e' // node
	kindDelta    = 'd' // node, topic, version before, version after, ops
	kindCast     = 't' // node, topic, data
	kindWant     = 'w' // node, topic; the answer goes to its inbox
	kindSnapshot = 's' // node, topic, version, which part, ops
	kindAsk      = 'q' // node, data
)

// Which part of a snapshot in several messages: the sum of these, the last times how
// many were before.
const (
	firstPart = 1
	lastPart  = 2
	partPlace = 4
)

// frame begins a message: its kind, then texts.
func frame(kind byte, texts ...string) []byte {
	b := []byte{kind}
	for _, text := range texts {
		b = appendText(b, text)
	}
	return b
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// chunk is as many ops as go into so many bytes, one at least, and the rest.
func chunk(ops []Op, room int) (b []byte, rest []Op) {
	for len(ops) > 0 {
		more := appendText(append(b, ops[0].ID[:]...), ops[0].Data)
		if len(b) > 0 && len(more) > room {
			break
		}
		b, ops = more, ops[1:]
	}
	return b, ops
}

// reader takes a message apart; past its end all is empty, and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	text := r.b[:n:n]
	r.b = r.b[n:]
	return text
}

func (r *reader) ops() (ops []Op) {
	for len(r.b) > len(ID{}) && !r.bad {
		op := Op{ID: ID(r.b[:len(ID{})])}
		r.b = r.b[len(ID{}):]
		if data := r.bytes(); len(data) > 0 {
			op.Data = data
		}
		ops = append(ops, op)
	}
	return ops
}
