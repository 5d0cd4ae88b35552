package sse

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzAppendEvent: what is framed is read back as it was, and nothing else is.
func FuzzAppendEvent(f *testing.F) {
	f.Add("e-1", "message.received", "{\"a\":1}")
	f.Add("", "", "a\nid: forged\r\nevent: x\rdata: y\n")
	f.Add("a\nb", "x", "y")
	f.Fuzz(func(t *testing.T, id, name, data string) {
		b, err := AppendEvent(nil, id, name, []byte(data))
		if forged := strings.ContainsAny(id+name, "\r\n\x00"); forged != (err != nil) {
			t.Fatalf("id %q, name %q: %v", id, name, err)
		}
		if err != nil {
			if len(b) > 0 {
				t.Fatalf("refused, and yet wrote %q", b)
			}
			return
		}
		want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data)
		r := NewReader(bytes.NewReader(b))
		got, err := r.Next()
		if want == "" { // no data, no event: the standard's own rule
			if err == nil && got.Data != "" {
				t.Fatalf("read %q", got.Data)
			}
			return
		}
		if name == "" {
			name = "message"
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "") }
		strip := func(s string) string { return strings.ReplaceAll(s, "\ufffd", "") }
		if err != nil || strip(got.Data) != strip(valid(want)) || strip(got.Type) != strip(valid(name)) || strip(got.ID) != strip(valid(id)) {
			t.Fatalf("%q: read %+v, %v", b, got, err)
		}
		if _, err := r.Next(); err == nil {
			t.Fatalf("%q holds a second event", b)
		}
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	data := []byte(`{"id":"x","payload":"` + strings.Repeat("y", 200) + `"}`)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		AppendEvent(buf, "0123456789abcdef-1", "message.received", data)
	}
}
