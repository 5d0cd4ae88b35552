package history

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
)

// Epoch is one life of a tenant's history. Epochs of the same life are equal.
type Epoch struct {
	key *Key
	Tag uint64
}

// Text names the epoch among others of its tenant, in 16 hexadecimal digits.
func (e Epoch) Text() string { return fmt.Sprintf("%016x", e.Tag) }

// Cursor is a place in a tenant's history. Its text form is opaque to clients: it tells
// neither how many events there are nor which came first, and nobody can make one up.
type Cursor struct {
	Epoch Epoch  // new for each life of the tenant's history
	Seq   uint64 // 0: before the first event
}

// Key is the secret of cursors. A cursor's text is one block of AES over the epoch's tag and
// the number, so whoever lacks the key hits a tag once in 2⁶⁴ tries.
type Key struct{ block cipher.Block }

// cursorLen is the length of a cursor's text.
const cursorLen = 22

var cursorText = base64.RawURLEncoding.Strict()

// cursorBlocks are reused, since the compiler cannot keep on the stack what a cipher is given.
var cursorBlocks = sync.Pool{New: func() any { return new([aes.BlockSize]byte) }}

// NewKey makes the key that follows from a secret of any length.
func NewKey(secret []byte) *Key {
	key := sha256.Sum256(append([]byte("cursor "), secret...))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has a length that there is
	}
	return &Key{block}
}

// Epoch is the epoch of an id, of which the first 8 bytes count.
func (k *Key) Epoch(id []byte) Epoch { return Epoch{k, binary.BigEndian.Uint64(id)} }

// String is the text form; empty for a place in no history.
func (c Cursor) String() string {
	if c.Epoch.key == nil {
		return ""
	}
	b := cursorBlocks.Get().(*[aes.BlockSize]byte)
	defer cursorBlocks.Put(b)
	binary.BigEndian.PutUint64(b[:], c.Epoch.Tag)
	binary.BigEndian.PutUint64(b[8:], c.Seq)
	c.Epoch.key.block.Encrypt(b[:], b[:])
	var text [cursorLen]byte
	cursorText.Encode(text[:], b[:])
	return string(text[:])
}

// Parse reads a cursor of this epoch, in the one form that String writes. It returns false
// for any other text.
func (e Epoch) Parse(text string) (Cursor, bool) {
	if len(text) != cursorLen || strings.ContainsAny(text, "\r\n") { // which base64 skips
		return Cursor{}, false
	}
	b := cursorBlocks.Get().(*[aes.BlockSize]byte)
	defer cursorBlocks.Put(b)
	var raw [cursorLen]byte
	copy(raw[:], text)
	if n, err := cursorText.Decode(b[:], raw[:]); err != nil || n != len(b) {
		return Cursor{}, false
	}
	e.key.block.Decrypt(b[:], b[:])
	return Cursor{e, binary.BigEndian.Uint64(b[8:])}, binary.BigEndian.Uint64(b[:]) == e.Tag
}
