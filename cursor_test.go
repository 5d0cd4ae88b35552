package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/http"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/history"
)

// Of two cursors a subscriber sees that they are not the same, and nothing else: not how
// many events lie between them, nor which came first.
func TestCursorsAreOpaque(t *testing.T) {
	is := is.New(t)
	epoch := history.NewMemory(testLimits).Epoch("acme")
	const many = 4096
	seen := map[string]bool{}
	rises, common, longest := 0, 0, 0
	last := ""
	for seq := range uint64(many) {
		text := history.Cursor{Epoch: epoch, Seq: seq}.String()
		is.True(cursorSafe(text) && len(text) == history.CursorLen)
		is.True(!seen[text])
		seen[text] = true
		if text > last {
			rises++
		}
		raw, before := make([]byte, 16), make([]byte, 16)
		history.CursorText.Decode(raw, []byte(text))
		history.CursorText.Decode(before, []byte(last))
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
	other := history.NewMemory(testLimits).Epoch("acme") // another life, the same number
	is.True(history.Cursor{Epoch: epoch, Seq: 1}.String() != history.Cursor{Epoch: other, Seq: 1}.String())
}

// cursorSafe says that a text needs no quoting anywhere: in a query, a header that a
// preflight does not stop (Fetch, CORS-safelisted), or a log.
func cursorSafe(text string) bool {
	return len(bytes.Trim([]byte(text), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")) == 0
}

// A cursor that was made up, or changed, or is another tenant's, is none.
func TestForgedCursors(t *testing.T) {
	is := is.New(t)
	log := history.NewMemory(testLimits)
	epoch := log.Epoch("acme")
	text := history.Cursor{Epoch: epoch, Seq: 5}.String()
	c, ok := epoch.Parse(text)
	is.True(ok)
	is.Equal(c, history.Cursor{Epoch: epoch, Seq: 5})
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
	for _, other := range []string{"", text + "A", text[1:], text + "==", " " + text[1:], fmt.Sprintf("%x-5", epoch.Tag), history.Cursor{Epoch: log.Epoch("other"), Seq: 5}.String()} {
		_, ok := epoch.Parse(other)
		is.True(!ok) // other
	}
	plain := make([]byte, 16)
	binary.BigEndian.PutUint64(plain, epoch.Tag)
	binary.BigEndian.PutUint64(plain[8:], 5)
	_, ok = epoch.Parse(history.CursorText.EncodeToString(plain))
	is.True(!ok) // who knows what it says cannot make it
	is.Equal(history.Cursor{}.String(), "")
}

// A place has one text on all hubs, and survives them.
func TestCursorsAreTheSameOnAllHubs(t *testing.T) {
	is := is.New(t)
	all, nodes := threeHubs(t)
	client := all.open(t, meQuery)
	var first string
	for i := range 3 {
		cursor := nodes[i].publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i))["cursor"].(string)
		is.Equal(client.next(t).ID, cursor)
		for _, node := range nodes {
			c, ok := node.parse("acme", cursor)
			is.True(ok)
			is.Equal(c.String(), cursor)
			is.Equal(node.back(t, cursor, meQuery).Ready.ID, cursor)
			status, answer := node.do(t, http.MethodGet, "/v1/tenants/acme/events?after="+client.Cursor, "")
			is.Equal(status, http.StatusOK)
			is.Equal(answer["cursor"], cursor)
		}
		if i == 0 {
			first = cursor
		}
	}
	is.Equal(nodes[2].replayed(t, nodes[2].back(t, first, meQuery)), "1 2")
	secrets := map[string]bool{}
	for _, node := range nodes {
		secrets[node.log.(*brokerLog).journal.Secret()] = true
	}
	is.Equal(len(secrets), 1)
	for secret := range secrets {
		is.True(len(secret) >= 32)
	}
}

func BenchmarkCursor(b *testing.B) {
	epoch := history.NewMemory(testLimits).Epoch("acme")
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for seq := uint64(0); b.Loop(); seq++ {
			_ = history.Cursor{Epoch: epoch, Seq: seq}.String()
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		text := history.Cursor{Epoch: epoch, Seq: 5}.String()
		for b.Loop() {
			epoch.Parse(text)
		}
	})
}
