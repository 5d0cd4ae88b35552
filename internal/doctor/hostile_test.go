package doctor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// nasty is what a foreign server may say: a colour, a title, a line over ours, a C1
// control, DEL, a turn of direction, a line of its own, and bytes that are no text.
const nasty = "\x1b[31m\x1b]0;owned\x07\rok       Streams work.\u009b2J\x7f\u202e\u2066\u2028\nok  all\u200f\U000e0041\xff\xc3"

// harmless says whether a terminal shows all of a text, and obeys nothing but the ends of
// lines.
func harmless(text string) bool {
	for _, r := range text {
		if r != '\n' && !unicode.IsGraphic(r) {
			return false
		}
	}
	return strings.ToValidUTF8(text, "") == text
}

// Nothing of what others say moves the cursor, ends a line or turns the direction, in
// words and in JSON, which stays the same JSON.
func TestOthersWordsAreShown(t *testing.T) {
	problem := func(w http.ResponseWriter, status int, code, detail string) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]string{"code": code, "detail": detail})
	}
	stream := func(w http.ResponseWriter, host string) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Via", "1.1 \u009b31m\u202e")
		w.Header().Set("Server", "x\u009b31m\u202e")
		w.Header().Set("Content-Encoding", "\u009b31m")
		w.Header().Set("Cache-Control", "\u009b31m\u202e")
		w.Header().Set("Age", "\u009b31m\u202e")
		hello, _ := json.Marshal(Hello{ID: nasty, At: nasty, Protocol: nasty, Host: host, Headers: map[string][]string{"Via": {nasty}, nasty: {nasty}}})
		fmt.Fprintf(w, "event: doctor.hello\ndata: %s\n\nevent: hub.closing\ndata: {\"reason\":%s}\n\n", hello, mustJSON(nasty))
	}
	for name, answer := range map[string]http.HandlerFunc{
		"code":   func(w http.ResponseWriter, r *http.Request) { problem(w, 401, nasty, "") },
		"detail": func(w http.ResponseWriter, r *http.Request) { problem(w, 403, "x", nasty) },
		"busy":   func(w http.ResponseWriter, r *http.Request) { problem(w, 503, nasty, nasty) },
		"type":   func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", "x/\u009b31m\u202e") },
		"location": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://\u202e\u009b.example/\u009b")
			w.WriteHeader(302)
		},
		"long": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "x/"+strings.Repeat("y", 50_000))
		},
		"stream": func(w http.ResponseWriter, r *http.Request) { stream(w, nasty) },
		"error": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			conn.Write([]byte("HTTP/9.9 \u009b31m\x1b[31m\u202e\x7f nonsense\r\n\r\n"))
			conn.Close()
		},
	} {
		for _, asJSON := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", asJSON), func(t *testing.T) {
				t.Parallel()
				is := is.New(t)
				server := httptest.NewServer(answer)
				defer server.Close()
				args := []string{"-for", "1s", server.URL}
				if asJSON {
					args = append(args, "-json")
				}
				var out, errs bytes.Buffer
				code := Command(t.Context(), args, func(string) string { return "" }, &out, &errs)
				is.True(code != exitFine)
				if printed := out.String() + errs.String(); !harmless(printed) {
					t.Errorf("%q", printed)
				}
				is.True(!strings.Contains(out.String(), "\nok  all")) // no line of theirs
				if asJSON {
					var report Report
					is.NoErr(json.Unmarshal(out.Bytes(), &report))
					is.True(report.Verdict != "")
					if name == "stream" {
						is.Equal(report.Hub.ID, strings.ToValidUTF8(nasty, "\ufffd\ufffd")) // the same, in other letters
					}
				} else {
					is.True(out.Len() < 20<<10)
				}
			})
		}
	}
	is := is.New(t)
	var out, errs bytes.Buffer
	Command(t.Context(), []string{"http://" + nasty}, func(string) string { return "" }, &out, &errs)
	Command(t.Context(), []string{"http://127.0.0.1:1/\u009b31m\u202e"}, func(string) string { return "" }, &out, &errs)
	is.True(harmless(out.String() + errs.String()))
	is.Equal(plain("é 😀 \ufffd\u00a0"), "é 😀 \ufffd\u00a0")
	is.Equal(plain("\x1b\n\u009b\u202e\U000e0041\xff"), `\x1b\x0a\u009b\u202e\U000e0041\xff`)
}

func mustJSON(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

// hostile serves raw connections until the test ends.
func hostile(t *testing.T, serve func(net.Conn)) *url.URL {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { conn.Close() })
			go serve(conn)
		}
	}()
	return &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/v1/doctor"}
}

// endless writes a beginning, then the same again and again until nobody reads it.
func endless(begin, again string) func(net.Conn) {
	return func(conn net.Conn) {
		conn.Write([]byte(begin))
		for again = strings.Repeat(again, 1+4096/(len(again)+1)); ; {
			if _, err := conn.Write([]byte(again)); err != nil {
				return
			}
		}
	}
}

// A probe is over when its time is, whatever the other side does, and keeps no more than
// it has to.
func TestAProbeEnds(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
	const hello = "event: doctor.hello\ndata: {\"id\":\"AAAA\",\"host\":\"x\"}\n\n"
	for name, serve := range map[string]func(net.Conn){
		"silence":          func(net.Conn) {},
		"a head's end":     func(c net.Conn) { c.Write([]byte(head)) },
		"a hello":          func(c net.Conn) { c.Write([]byte(head + hello)) },
		"heads":            endless("HTTP/1.1 200 OK\r\n", "X: y\r\n"),
		"103s":             endless("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
		"a line":           endless(head, "data: x"),
		"comments":         endless(head, ":\n"),
		"ids":              endless(head, "id: x\n\n"),
		"data":             endless(head, "data: x\n"),
		"hellos":           endless(head, hello),
		"ticks":            endless(head+hello, "event: doctor.tick\ndata: {\"seq\":1,\"elapsedMs\":9223372036854775807}\n\n"),
		"gone":             endless(head+hello, "event: doctor.gone\ndata: {\"id\":\"BBBB\",\"how\":\"left\"}\n\n"),
		"dones":            endless(head+hello, "event: doctor.done\ndata: {}\n\n"),
		"a page of a 404":  endless("HTTP/1.1 404 Not Found\r\n\r\n", ""),
		"HTTP/2, silently": func(c net.Conn) { c.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			p := probe{url: hostile(t, serve), lasts: 200 * time.Millisecond, grace: 200 * time.Millisecond, every: 50 * time.Millisecond}
			greeted := 0
			p.greets = func(*Hello) { greeted++ }
			ends(t, p)
			is.True(greeted <= 1)
		})
	}
}

// ends runs a probe, which is over in time and has kept no more than it has to.
func ends(t *testing.T, p probe) (got trial) {
	t.Helper()
	over := make(chan trial, 1)
	go func() { over <- p.run(t.Context()) }()
	select {
	case got = <-over:
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	is := is.New(t)
	is.True(len(got.arrivals) <= mostTicks+1)
	is.True(len(got.gone) <= mostGone)
	is.True(len(got.body) <= 4<<10)
	return got
}

// hostileSocket serves WebSockets that a probe asks for.
func hostileSocket(t *testing.T, serve func(net.Conn)) *url.URL {
	t.Helper()
	return hostile(t, func(conn net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+acceptance(r.Header)+"\r\n\r\n")
		go io.Copy(io.Discard, conn)
		serve(conn)
	})
}

// So it is on a WebSocket, whose frames may say anything.
func TestAProbeOnASocketEnds(t *testing.T) {
	frame := func(first byte, text string) string { return string([]byte{first, byte(len(text))}) + text }
	hello := frame(0x81, `{"event":"doctor.hello","data":{"id":"AAAA"}}`)
	for name, tc := range map[string]struct{ begin, again string }{
		"silence":          {"", ""},
		"pings":            {hello, frame(0x89, "x")},
		"nothing":          {hello, frame(0x81, "")},
		"no JSON":          {hello, frame(0x81, "{")},
		"another's":        {hello, frame(0x81, `{"n":1}`)},
		"no end":           {hello, frame(0x01, strings.Repeat("x", 100))},
		"more and more":    {hello, frame(0x00, strings.Repeat("x", 100))},
		"a lie":            {hello + "\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", "x"},
		"less than none":   {hello + "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", "x"},
		"ticks":            {hello, frame(0x81, `{"event":"doctor.tick","data":{"seq":1,"elapsedMs":9223372036854775807}}`)},
		"hellos":           {hello, hello},
		"a data of 7":      {frame(0x81, `{"event":"doctor.hello","data":7}`), ""},
		"a data of nobody": {frame(0x81, `{"event":"doctor.hello"}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := hostileSocket(t, func(conn net.Conn) {
				if tc.again != "" {
					endless(tc.begin, tc.again)(conn)
				}
				io.WriteString(conn, tc.begin)
			})
			testkit.Eventually(t, func() bool { // a busy machine may have no answer in its time
				got := ends(t, probe{url: u, origin: "http://hub", lasts: 200 * time.Millisecond, grace: 200 * time.Millisecond})
				return got.status == 101
			})
		})
	}
}

// A message that is too long is not read to its end, however its frames make it so.
func TestAMessageOfAProbeHasABound(t *testing.T) {
	const most = "\x7f\x7f\xff\xff\xff\xff\xff\xff\xff" // bytes, as a frame's head says it: 2^63-1
	for name, sent := range map[string]string{
		"in one frame":          "\x81" + most,
		"in two":                "\x01\x01x\x00" + most,
		"by one byte":           "\x01\x01x\x80\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("x", mostMessage),
		"in frames without end": strings.Repeat("\x00\x7d"+strings.Repeat("x", 0x7d), 1+mostMessage/0x7d),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := hostileSocket(t, func(conn net.Conn) {
				io.WriteString(conn, sent)
				conn.Close()
			})
			p := probe{url: u, origin: "http://hub", lasts: time.Minute}
			got := p.run(t.Context())
			is.New(t).True(errors.Is(got.err, errMessage))
		})
	}
}

// So is the whole: a hub that says hello again and again holds nobody up.
func TestAnExaminationEnds(t *testing.T) {
	is := is.New(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		lasts, _ := time.ParseDuration(r.URL.Query().Get("for"))
		for range 20 {
			fmt.Fprint(w, "event: doctor.hello\ndata: {\"id\":\"AAAA\",\"tells\":true}\n\n")
		}
		http.NewResponseController(w).Flush()
		select {
		case <-time.After(lasts):
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "event: doctor.done\ndata: {}\n\n")
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("it goes on"))
	defer cancel()
	over := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Config{URL: server.URL, For: MinFor})
		over <- err
	}()
	select {
	case err := <-over:
		is.NoErr(err)
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}

// A hub that is busy, and slow to say so, is not asked for longer than a probe may take.
func TestABusyHubIsNotAskedForEver(t *testing.T) {
	is := is.New(t)
	times := func() int64 {
		var asked atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			select {
			case <-time.After(900 * time.Millisecond):
			case <-r.Context().Done():
			}
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(503)
			fmt.Fprint(w, `{"code":"ProbesBusy"}`)
		}))
		u, _ := Address(server.URL)
		probe{url: u, lasts: 100 * time.Millisecond, grace: time.Second}.run(t.Context())
		server.Close()
		return asked.Load()
	}
	n := int64(0)
	testkit.Eventually(t, func() bool { n = times(); return n > 0 }) // a busy machine may not get to ask
	is.Equal(n, int64(1))
}
