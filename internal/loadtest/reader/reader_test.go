package reader

import (
	"fmt"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// body holds three events among what is none: a comment, a block without data,
// names that only begin like data, and an event without its end.
const body = "retry: 2000\nid: 1\nevent: hub.ready\ndata: {}\n\n" +
	": heartbeat\n\n\n" +
	"id: 2\n\n" +
	"dat: no\ndatas: no\n data: no\n: data: no\n\n" +
	"data: a\ndata: b\n\n" +
	":comment\ndata:\n\n" +
	"data: open\n"

const events = 3

func answer(header, body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + header + "\r\n" + body
}

// chunked splits the body into chunks of so many bytes.
func chunked(body string, size int) string {
	var out strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&out, "%X;name=value\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return out.String()
}

func TestReaderAtEverySplit(t *testing.T) {
	answers := map[string]string{
		"identity":       answer("", body),
		"one chunk":      answer("Transfer-Encoding: chunked\r\n", chunked(body, len(body))),
		"chunks of 1":    answer("transfer-encoding:chunked\r\n", chunked(body, 1)),
		"chunks of 17":   answer("Transfer-Encoding: chunked\r\n", chunked(body, 17)),
		"the last chunk": answer("Transfer-Encoding: chunked\r\n", chunked(body, 40)+"0\r\n\r\ndata: not read\n\n"),
	}
	for name, whole := range answers {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			for first := range len(whole) + 1 {
				for _, step := range []int{1, 7, len(whole)} {
					r := fed(t, whole, first, step)
					is.Equal(r.Events, events)
					is.True(r.Begun())
				}
			}
		})
	}
}

// fed is a reader of what is split at first, then every step bytes.
func fed(t *testing.T, whole string, first, step int) *Reader {
	t.Helper()
	is, r := is.New(t), &Reader{}
	is.NoErr(r.Feed([]byte(whole[:first])))
	for rest := whole[first:]; rest != ""; {
		n := min(step, len(rest))
		is.NoErr(r.Feed([]byte(rest[:n])))
		rest = rest[n:]
	}
	return r
}

func TestReaderCountsAnEventAtItsEnd(t *testing.T) {
	is := is.New(t)
	var r Reader
	is.NoErr(r.Feed([]byte(answer("", "data: a\n"))))
	is.Equal(r.Events, 0)
	is.NoErr(r.Feed([]byte("\n")))
	is.Equal(r.Events, 1)
}

func TestReaderRefuses(t *testing.T) {
	const head = "Transfer-Encoding: chunked\r\n"
	for name, whole := range map[string]string{
		"another status":      "HTTP/1.1 403 Forbidden\r\n\r\n",
		"no size":             answer(head, "\r\n"),
		"no hexadecimal size": answer(head, "x\r\n"),
		"a huge chunk":        answer(head, "7fffffffffffffff\r\n"),
		"a longer chunk":      answer(head, "1\r\nab"),
		"a head without end":  strings.Repeat("x", maxHead+1),
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var r Reader
			is.True(r.Feed([]byte(whole)) != nil)
		})
	}
}

// The client must not be what is measured: at least 1.5 GB/s.
func BenchmarkReader(b *testing.B) {
	frame := "id: juiXETMMHM85ouZa0Su9fQ\nevent: load.test\ndata: " + strings.Repeat("x", 350) + "\n\n"
	span := []byte(chunked(strings.Repeat(frame, 600), 16<<10))
	var r Reader
	if err := r.Feed([]byte(answer("Transfer-Encoding: chunked\r\n", ""))); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(span)))
	for b.Loop() {
		if err := r.Feed(span); err != nil {
			b.Fatal(err)
		}
	}
}
