package history

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"testing"

	"github.com/matryer/is"
)

// Of two cursors a subscriber sees that they are not the same, and nothing else: not how
// many events lie between them, nor which came first.
func TestCursorsAreOpaque(t *testing.T) {
	is := is.New(t)
	epoch := NewMemory(Limits{}).Epoch("acme")
	const many = 4096
	seen := map[string]bool{}
	rises, common, longest := 0, 0, 0
	last := ""
	for seq := range uint64(many) {
		text := Cursor{Epoch: epoch, Seq: seq}.String()
		is.True(cursorSafe(text) && len(text) == cursorLen)
		is.True(!seen[text])
		seen[text] = true
		if text > last {
			rises++
		}
		raw, before := make([]byte, 16), make([]byte, 16)
		cursorText.Decode(raw, []byte(text))
		cursorText.Decode(before, []byte(last))
		same := 0
		for i := range raw {
			same += 8 - bits.OnesCount8(raw[i]^before[i])
		}
		common, longest = common+same, max(longest, same)
		last = text
	}
	is.True(rises > many*2/5 && rises < many*3/5)             // no order
	is.True(common > many*64*19/20 && common < many*64*21/20) // half of the bits change each time
	is.True(longest < 110)
	other := NewMemory(Limits{}).Epoch("acme") // another life, the same number
	is.True(Cursor{Epoch: epoch, Seq: 1}.String() != Cursor{Epoch: other, Seq: 1}.String())
}

// cursorSafe says that a text needs no quoting anywhere: in a query, a header that a
// preflight does not stop (Fetch, CORS-safelisted), or a log.
func cursorSafe(text string) bool {
	return len(bytes.Trim([]byte(text), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")) == 0
}

// A cursor that was made up, or changed, or is another tenant's, is none.
func TestForgedCursors(t *testing.T) {
	is := is.New(t)
	log := NewMemory(Limits{})
	epoch := log.Epoch("acme")
	text := Cursor{Epoch: epoch, Seq: 5}.String()
	c, ok := epoch.Parse(text)
	is.True(ok)
	is.Equal(c, Cursor{Epoch: epoch, Seq: 5})
	for i := range text {
		for _, r := range []byte("A_-z0=+/.\r\n\x00") {
			forged := []byte(text)
			if forged[i] == r {
				continue
			}
			forged[i] = r
			_, ok := epoch.Parse(string(forged))
			is.True(!ok) // forged
		}
	}
	for _, other := range []string{"", text + "A", text[1:], text + "==", " " + text[1:], fmt.Sprintf("%x-5", epoch.Tag), Cursor{Epoch: log.Epoch("other"), Seq: 5}.String()} {
		_, ok := epoch.Parse(other)
		is.True(!ok) // other
	}
	plain := make([]byte, 16)
	binary.BigEndian.PutUint64(plain, epoch.Tag)
	binary.BigEndian.PutUint64(plain[8:], 5)
	_, ok = epoch.Parse(cursorText.EncodeToString(plain))
	is.True(!ok) // who knows what it says cannot make it
	is.Equal(Cursor{}.String(), "")
}

func BenchmarkCursor(b *testing.B) {
	epoch := NewMemory(Limits{}).Epoch("acme")
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for seq := uint64(0); b.Loop(); seq++ {
			_ = Cursor{Epoch: epoch, Seq: seq}.String()
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		text := Cursor{Epoch: epoch, Seq: 5}.String()
		for b.Loop() {
			epoch.Parse(text)
		}
	})
}
