package engine

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/sse"
	"realtimehub/internal/sse/ssetest"
	"realtimehub/internal/tcp"
	"realtimehub/internal/testkit"
)

const patience = 20 * time.Second

// house is an engine behind a real server, and the streams it has served.
type house struct {
	*Engine
	addr        string
	certificate *tls.Certificate // nil: clear text
	version     uint16           // of TLS, at most; 0: the newest

	stop func() // ends the server

	mu       sync.Mutex
	streams  map[string]*guest
	visitors []net.Conn
}

// silenced is the name of who gets no heartbeats.
const silenced = "silenced"

// guest is one stream as its owner sees it, by the name its client gave.
type guest struct {
	*Stream
	gone   chan error   // one word, once
	served chan bool    // whether Serve returned while the stream was open
	ended  atomic.Int32 // how often its Input was told of the end
}

var (
	testShed = NewFrame([]byte("event: shed\ndata: x\n\n"), false)
	testLast = NewFrame([]byte("event: last\ndata: x\n\n"), false)
	testCut  = NewFrame([]byte("event: cut\ndata: x\n\n"), false)

	testWords = &Words{NewFrame([]byte(sse.Comment), true), testShed, func() *Frame { return testCut }}
)

// shortWords are another engine's each.
func shortWords() *Words {
	return &Words{NewFrame([]byte("B"), true), NewFrame([]byte("S"), false), func() *Frame { return NewFrame([]byte("CUT"), false) }}
}

// allPaths runs a test with sockets taken from net/http, where that can be done, in clear text and
// over TLS, and without; at its end nothing is left of any.
func allPaths(t *testing.T, cfg Config, test func(t *testing.T, h *house)) {
	for _, path := range []string{"taken", "TLS", "plain"} {
		if path != "plain" && runtime.GOOS != "linux" {
			continue
		}
		t.Run(path, func(t *testing.T) {
			if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
				l.Close() // the runtime has descriptors of its own from the first one on
			}
			goroutines, descriptors := runtime.NumGoroutine(), countDescriptors()
			cfg := cfg
			cfg.Plain = path == "plain"
			var certificate *tls.Certificate
			if path == "TLS" {
				certificate = newCertificate(t)
			}
			h := openHouseWith(t, cfg, certificate)
			defer h.stop()
			test(t, h)
			h.leave()
			h.close(t)
			h.stop()
			eventually(t, "goroutines and descriptors to be as few as before", func() bool {
				return runtime.NumGoroutine() <= goroutines && countDescriptors() <= descriptors
			})
			if owed := h.Owed(); owed != 0 {
				t.Errorf("%d bytes are still owed", owed)
			}
		})
	}
}

func openHouse(t *testing.T, cfg Config) *house { return openHouseWith(t, cfg, nil) }

func newCertificate(t *testing.T) *tls.Certificate {
	t.Helper()
	cert, key, err := testkit.WriteCertificate(t.TempDir(), "engine")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// openHouseWith speaks TLS, and HTTP/1.1 on it, where there is a certificate.
func openHouseWith(t *testing.T, cfg Config, certificate *tls.Certificate) *house {
	t.Helper()
	listener, err := tcp.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Engine: NewEngine(cfg), addr: listener.Addr().String(), certificate: certificate, streams: map[string]*guest{}}
	server := &http.Server{Handler: h, ConnContext: tcp.ConnContext, ErrorLog: log.New(io.Discard, "", 0)}
	if certificate != nil {
		listener = tls.NewListener(tcp.Secure(listener), &tls.Config{Certificates: []tls.Certificate{*certificate}})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(listener)
	}()
	h.stop = func() {
		h.leave()
		server.Close()
		<-ended
	}
	return h
}

func (h *house) close(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Errorf("streams are left: %v", err)
	}
}

// leave has all visitors leave.
func (h *house) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, conn := range h.visitors {
		conn.Close()
	}
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g := &guest{gone: make(chan error, 2), served: make(chan bool, 1)}
	g.Stream = h.NewStream(testWords, func(why error) { g.gone <- why })
	if r.URL.Query().Get("name") == silenced {
		g.Silence()
	}
	h.mu.Lock()
	h.streams[r.URL.Query().Get("name")] = g
	h.mu.Unlock()
	if r.Header.Get("Upgrade") != "" {
		g.Listen(echo{g, &g.ended})
		h.ServeSocket(w, r, g.Stream, []byte(upgraded))
	} else {
		sse.Header(w.Header())
		h.Serve(w, r, g.Stream)
	}
	g.served <- len(g.gone) == 0
}

// guest waits until the stream of a name is there.
func (h *house) guest(t *testing.T, name string) (g *guest) {
	t.Helper()
	eventually(t, "stream "+name, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		g = h.streams[name]
		return g != nil
	})
	return g
}

// deliver publishes frames to streams, as one delivery.
func deliver(streams []*Stream, frames ...*Frame) {
	var d Batch
	for _, s := range streams {
		for _, f := range frames {
			d.Send(s, f)
		}
	}
	d.Flush()
}

func eventFrame(data string) *Frame {
	b, _ := sse.AppendEvent(nil, "", "", []byte(data))
	return NewFrame(b, false)
}

// passingEvent is an event that is the first to be shed.
func passingEvent(data []byte) *Frame { return NewEvents(data, 1, true, time.Time{}) }

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !done() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func countDescriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// wait is why the stream has ended.
func (g *guest) wait(t *testing.T) error {
	t.Helper()
	select {
	case why := <-g.gone:
		return why
	case <-time.After(patience):
		t.Fatal("the stream has not ended")
		return nil
	}
}

// peer is a client's end of a connection, also over TLS.
type peer interface {
	net.Conn
	CloseWrite() error
}

// visitor is a client on a bare socket, or over TLS.
type visitor struct {
	tcp *net.TCPConn
	peer
	*bufio.Reader
	beats bool // heartbeats may come before an event
}

func (v *visitor) Read(p []byte) (int, error) { return v.Reader.Read(p) }

// visit sends a request as it stands, "NAME" in it replaced.
func (h *house) visit(t *testing.T, name, request string) *visitor {
	t.Helper()
	dialled, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := h.speak(dialled)
	h.mu.Lock()
	h.visitors = append(h.visitors, conn)
	h.mu.Unlock()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "NAME", name)); err != nil {
		t.Fatal(err)
	}
	v := newVisitor(dialled, conn)
	v.beats = h.cfg.Heartbeat > 0 && name != silenced
	return v
}

func newVisitor(dialled net.Conn, conn peer) *visitor {
	return &visitor{tcp: dialled.(*net.TCPConn), peer: conn, Reader: bufio.NewReader(patient{conn})}
}

// speak is a client's end as the house wants to be spoken to.
func (h *house) speak(dialled net.Conn) peer {
	if h.certificate == nil {
		return dialled.(*net.TCPConn)
	}
	return tls.Client(dialled, &tls.Config{InsecureSkipVerify: true, MaxVersion: h.version})
}

// patient gives each read its own time: a slow machine fails no test, a stream
// that stands still does.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(patience))
	return p.Conn.Read(b)
}

const get = "GET /?name=NAME HTTP/1.1\r\nHost: localhost\r\n\r\n"

// head reads the answer's head; what v reads next is the body.
func (v *visitor) head(t *testing.T) (status string, header http.Header) {
	t.Helper()
	status, header, err := v.readHead()
	if err != nil {
		t.Fatal(err)
	}
	return status, header
}

func (v *visitor) readHead() (status string, header http.Header, err error) {
	var lines []string
	for {
		line, err := v.ReadString('\n')
		if err != nil {
			return "", nil, fmt.Errorf("%w after %q", err, lines)
		}
		if line == "\r\n" {
			break
		}
		lines = append(lines, strings.TrimSuffix(line, "\r\n"))
	}
	header = http.Header{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, value)
	}
	if header.Get("Transfer-Encoding") == "chunked" {
		v.Reader = bufio.NewReader(newChunked(v.Reader))
	}
	return lines[0], header, nil
}

// chunked is a body in chunks, which has to end with the last one and nothing behind it.
type chunked struct{ chunks, all io.Reader }

func newChunked(r *bufio.Reader) chunked { return chunked{httputil.NewChunkedReader(r), r} }

func (c chunked) Read(p []byte) (int, error) {
	n, err := c.chunks.Read(p)
	if err == io.EOF {
		rest, failed := io.ReadAll(c.all)
		switch {
		case failed != nil || !strings.HasPrefix("\r\n", string(rest)):
			return n, fmt.Errorf("%q follows the last chunk, %v", rest, failed)
		case len(rest) < 2:
			return n, io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// open opens a stream and reads its head, which the plain path may hold back
// until there is something to say.
func (h *house) open(t *testing.T, name string) (*visitor, *guest) {
	t.Helper()
	v := h.visit(t, name, get)
	g := h.guest(t, name)
	deliver([]*Stream{g.Stream}, eventFrame("hello"))
	status, header := v.head(t)
	if status != "HTTP/1.1 200 OK" || header.Get("Content-Type") != "text/event-stream" || header.Get("Connection") != "close" || header.Get("Date") == "" {
		t.Fatalf("%s %v", status, header)
	}
	if header.Get("Transfer-Encoding") != "chunked" {
		t.Fatal("the body must come in chunks")
	}
	v.next(t, "hello")
	if !h.cfg.Plain {
		select {
		case open := <-g.served:
			if !open {
				t.Fatal("the stream has ended")
			}
		case <-time.After(patience):
			t.Fatal("the handler is still there: the socket was not taken")
		}
	}
	return v, g
}

// next reads one event as our own frames have it, and the heartbeats before it.
func (v *visitor) next(t *testing.T, data string) {
	t.Helper()
	for v.beats {
		if first, _ := v.Peek(len(sse.Comment)); string(first) != sse.Comment {
			break
		}
		v.Discard(len(sse.Comment))
	}
	want := "data: " + data + "\n\n"
	got := make([]byte, len(want))
	if n, err := io.ReadFull(v, got); err != nil || string(got) != want {
		t.Fatalf("read %.200q, %v instead of %.200q", got[:n], err, want)
	}
}

// rest reads to the end.
func (v *visitor) rest(t *testing.T) string {
	t.Helper()
	all, err := io.ReadAll(v)
	if err != nil {
		t.Fatalf("%v after %q", err, all)
	}
	return string(all)
}

// What the web platform's tests send arrives as it was sent, over a real socket.
func TestVectorsOverASocket(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		for i, vector := range ssetest.Vectors {
			is := is.New(t)
			name := fmt.Sprint(i)
			v := h.visit(t, name, get)
			g := h.guest(t, name)
			deliver([]*Stream{g.Stream}, NewFrame([]byte(vector.In), false))
			g.Stream.Close(NewFrame(nil, false))
			v.head(t)
			got, err := ssetest.ParseAll(v, 0)
			is.Equal(err, io.EOF)
			is.Equal(got, vector.Want) // the vector
			is.NoErr(g.wait(t))
		}
	})
}

// However the sockets fill, each client reads every frame once, whole, in the
// order of publishing: each frame holds the hash of the one before.
func TestOrderIsAHashChain(t *testing.T) {
	const clients, publishers, each = 24, 8, 60
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		var streams []*Stream
		var visitors []*visitor
		for i := range clients {
			v, g := h.open(t, fmt.Sprint(i))
			if i%3 == 0 {
				v.tcp.SetReadBuffer(128 << 10) // below two segments of loopback, TCP waits for its timers instead
			}
			streams, visitors = append(streams, g.Stream), append(visitors, v)
		}
		read := make(chan error, clients)
		for i, v := range visitors {
			go func() { read <- readChain(v, i%3 == 0, publishers*each) }()
		}
		var order sync.Mutex // a tenant's
		var last [sha256.Size]byte
		n := 0
		var wg sync.WaitGroup
		for range publishers {
			wg.Go(func() {
				for range each {
					var d Batch
					order.Lock()
					size := []int{10, 300, 3_000, 20_000}[n%4]
					if n%97 == 0 {
						size = 200_000
					}
					f := eventFrame(fmt.Sprintf("%d %s %s", n, hex.EncodeToString(last[:]), strings.Repeat("x", size)))
					last = sha256.Sum256(f.data)
					n++
					for _, s := range streams {
						d.Send(s, f)
					}
					order.Unlock()
					d.Flush()
				}
			})
		}
		wg.Wait()
		for range visitors {
			if err := <-read; err != nil {
				t.Fatal(err)
			}
		}
		for i, s := range streams {
			s.Close(testLast)
			if got := visitors[i].rest(t); got != string(testLast.data) {
				t.Fatalf("the end is %q", got)
			}
		}
	})
}

func readChain(v *visitor, slowly bool, frames int) error {
	var from io.Reader = v
	if slowly {
		from = ssetest.Chunker{R: v, N: 1000}
	}
	lines := bufio.NewReaderSize(from, 512)
	var last [sha256.Size]byte
	for n := range frames {
		var frame bytes.Buffer
		for frame.Len() < 2 || !bytes.HasSuffix(frame.Bytes(), []byte("\n\n")) {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return fmt.Errorf("frame %d: %w", n, err)
			}
			frame.Write(line)
		}
		if want := fmt.Sprintf("data: %d %s x", n, hex.EncodeToString(last[:])); !bytes.HasPrefix(frame.Bytes(), []byte(want)) {
			return fmt.Errorf("frame %d begins with %.120q instead of %q", n, frame.Bytes(), want)
		}
		last = sha256.Sum256(frame.Bytes())
	}
	return nil
}

// fill publishes to a client that does not read until its socket is full.
func fill(t *testing.T, s *Stream, f *Frame) (sent int) {
	t.Helper()
	eventually(t, "the socket to be full", func() bool {
		deliver([]*Stream{s}, f)
		sent++
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.blockedLocked() && s.owed > 4*len(f.data)
	})
	return sent
}

// A stream that is closed while its socket is full still ends in order: whole
// frames, the last words, the end of the stream.
func TestCloseWhileWriting(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.open(t, "a")
		data := strings.Repeat("x", 30_000)
		sent := fill(t, g.Stream, eventFrame(data))
		g.Stream.Close(testLast)
		g.Stream.Close(testCut) // has no effect
		deliver([]*Stream{g.Stream}, eventFrame("late"))
		for range sent {
			v.next(t, data)
		}
		is.Equal(v.rest(t), string(testLast.data))
		is.NoErr(g.wait(t))
		is.Equal(len(g.gone), 0) // told once
	})
}

// A client that closes its half is taken as leaving: its stream ends, cleanly.
func TestHalfClose(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.open(t, "a")
		is.NoErr(v.CloseWrite())
		is.Equal(g.wait(t), ErrGone)
		rest, err := io.ReadAll(v)
		is.Equal(string(rest), "")
		if !h.cfg.Plain { // there net/http ends what it began
			is.Equal(err, io.ErrUnexpectedEOF) // the body is not said to be whole; and no reset
		}
		is.Equal(len(g.gone), 0)
	})
}

// A client that leaves is noticed without anything being sent, also one that
// sent a stray byte before; one that keeps sending is cut.
func TestInputIsNoticed(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		is := is.New(t)
		v, g := h.open(t, "leaves")
		v.peer.Close()
		is.Equal(g.wait(t), ErrGone)
		if h.cfg.Plain {
			return // net/http itself stops listening after a stray byte: the next write finds out
		}
		v, g = h.open(t, "stray")
		io.WriteString(v.peer, "x")
		v.peer.Close()
		is.Equal(g.wait(t), ErrGone)

		v, g = h.open(t, "noisy")
		written, _ := v.peer.Write(make([]byte, maxInput+1))
		is.Equal(written, maxInput+1)
		is.Equal(g.wait(t), ErrNoisy)
	})
}

// A request behind the first is not answered, a body is not in the way, HTTP/1.0
// is served as such, and HEAD is net/http's own.
func TestRequestsOfEveryShape(t *testing.T) {
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		for name, request := range map[string]string{
			"pipelined": get + get,
			"length":    "GET /?name=NAME HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
			"chunked":   "GET /?name=NAME HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			"old":       "GET /?name=NAME HTTP/1.0\r\n\r\n",
		} {
			is := is.New(t)
			v := h.visit(t, name, request)
			g := h.guest(t, name)
			deliver([]*Stream{g.Stream}, eventFrame("hello"))
			status, header := v.head(t)
			is.Equal(status, map[bool]string{false: "HTTP/1.1 200 OK", true: "HTTP/1.0 200 OK"}[name == "old"])
			is.Equal(header.Get("Connection"), "close")
			is.Equal(header.Get("Transfer-Encoding"), map[bool]string{false: "chunked"}[name == "old"])
			v.next(t, "hello")
			g.Stream.Close(testLast)
			is.Equal(v.rest(t), string(testLast.data))
			is.NoErr(g.wait(t))
		}
	})
}

// Over TLS, with HTTP/1.1 and HTTP/2, a stream says the same.
func TestOverTLS(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			is := is.New(t)
			e := NewEngine(Config{Heartbeat: 100 * time.Millisecond})
			streams, gone := make(chan *Stream, 1), make(chan error, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s := e.NewStream(testWords, func(why error) { gone <- why })
				streams <- s
				e.Serve(w, r, s)
			}))
			server.Config.ConnContext, server.EnableHTTP2 = tcp.ConnContext, version == 2
			server.StartTLS()
			defer server.Close()
			opened := make(chan *http.Response, 1)
			go func() {
				res, err := server.Client().Get(server.URL)
				if err != nil {
					t.Error(err)
				}
				opened <- res
			}()
			s := <-streams
			deliver([]*Stream{s}, eventFrame("hello"))
			res := <-opened
			defer res.Body.Close()
			is.Equal(res.ProtoMajor, version)
			var got []byte
			for buf := make([]byte, 100); !strings.Contains(string(got), "hello\n\n:"); {
				n, err := res.Body.Read(buf)
				is.NoErr(err)
				got = append(got, buf[:n]...)
			}
			is.Equal(strings.Trim(string(got), ":\n"), "data: hello") // between heartbeats, the first of which may come before it
			s.Close(testLast)
			rest, err := io.ReadAll(res.Body)
			is.NoErr(err)
			is.Equal(strings.TrimLeft(string(rest), ":\n"), string(testLast.data))
			is.NoErr(<-gone)
			is.NoErr(e.Close(t.Context()))
		})
	}
}

// Streams that are closed while others come, as in a drain, all end with their
// last words, and none is forgotten.
func TestConnectWhileClosing(t *testing.T) {
	const clients = 60
	allPaths(t, Config{}, func(t *testing.T, h *house) {
		var wg sync.WaitGroup
		ends := make(chan string, clients)
		for i := range clients {
			v := h.visit(t, fmt.Sprint(i), get)
			wg.Go(func() {
				_, _, err := v.readHead()
				body, err2 := io.ReadAll(v)
				if err := errors.Join(err, err2); err != nil {
					body = []byte(err.Error())
				}
				ends <- string(body)
			})
		}
		for i := range clients {
			h.guest(t, fmt.Sprint(i)).Stream.Close(testLast)
		}
		wg.Wait() // as in a drain, the engine is closed once the server has no requests
		h.close(t)
		for range clients {
			if end := <-ends; end != string(testLast.data) {
				t.Errorf("a stream was %q", end)
			}
		}
		for name, g := range h.streams {
			if why := g.wait(t); why != nil || len(g.gone) > 0 {
				t.Errorf("%s: %v", name, why)
			}
		}
		late := h.visit(t, "late", get) // the engine has stopped
		if status, _, err := late.readHead(); err == nil {
			t.Errorf("answered %s", status)
		}
	})
}

// A client that does not read is cut once it is owed too much, and no other is;
// what it had begun to read is finished first when it reads again at once.
func TestSlowIsCut(t *testing.T) {
	allPaths(t, Config{Buffer: 64 << 10}, func(t *testing.T, h *house) {
		is := is.New(t)
		slow, g := h.open(t, "slow")
		healthy, fine := h.open(t, "healthy")
		f, passing := eventFrame(strings.Repeat("x", 10_000)), passingEvent([]byte("data: passing\n\n"))
		sent := 0
		eventually(t, "the cut", func() bool {
			deliver([]*Stream{g.Stream, fine.Stream}, f)
			deliver([]*Stream{g.Stream}, passing)
			healthy.next(t, strings.Repeat("x", 10_000))
			sent++
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.cut
		})
		got := slow.rest(t)
		is.True(strings.HasSuffix(got, "\n\n"+string(testCut.data))) // the last words come after a whole frame
		whole := strings.TrimSuffix(got, string(testCut.data))
		whole = strings.ReplaceAll(whole, string(testShed.data), "") // as long as it took some of it
		whole = strings.ReplaceAll(strings.ReplaceAll(whole, "data: passing\n\n", ""), string(f.data), "")
		is.Equal(whole, "") // nothing was torn
		is.Equal(g.wait(t), ErrSlow)
		is.Equal(len(fine.gone), 0)
	})
}

// A client that never reads again does not hold its stream for ever.
func TestLastWordsDoNotWaitForEver(t *testing.T) {
	allPaths(t, Config{Buffer: 64 << 10, Linger: 500 * time.Millisecond}, func(t *testing.T, h *house) {
		v, g := h.open(t, "a")
		v.tcp.SetReadBuffer(4 << 10) // and the kernel makes it no larger
		fill(t, g.Stream, eventFrame(strings.Repeat("x", 10_000)))
		g.Stream.Close(testLast)
		if h.cfg.Plain {
			return // its write times out after writeTimeout; the house is closed before
		}
		if why := g.wait(t); why != nil {
			t.Fatal(why)
		}
	})
}

// A silent stream gets comments.
func TestHeartbeat(t *testing.T) {
	allPaths(t, Config{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		v, _ := h.open(t, "a")
		comments := make([]byte, 9)
		if _, err := io.ReadFull(v, comments); err != nil || string(comments) != ":\n\n:\n\n:\n\n" {
			t.Fatalf("%q, %v", comments, err)
		}
	})
}

// One that is silenced gets none, while another has several.
func TestSilence(t *testing.T) {
	allPaths(t, Config{Heartbeat: 50 * time.Millisecond}, func(t *testing.T, h *house) {
		v, g := h.open(t, silenced)
		other, _ := h.open(t, "b")
		if _, err := io.ReadFull(other, make([]byte, 5*len(":\n\n"))); err != nil {
			t.Fatal(err)
		}
		deliver([]*Stream{g.Stream}, eventFrame("x"))
		const want = "data: x\n\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(v, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

// What all clients are owed stays within the budget: those who do not read are
// cut, and no other.
func TestBudget(t *testing.T) {
	const budget, stalled, healthy, rounds, size = 8 << 20, 20, 5, 40, 64 << 10
	allPaths(t, Config{Budget: budget}, func(t *testing.T, h *house) {
		var stalls, fine []*guest
		var readers []*visitor
		for i := range stalled {
			_, g := h.open(t, fmt.Sprint("stalled-", i))
			stalls = append(stalls, g)
		}
		for i := range healthy {
			v, g := h.open(t, fmt.Sprint("healthy-", i))
			fine, readers = append(fine, g), append(readers, v)
		}
		data := strings.Repeat("x", size)
		for range rounds {
			for _, g := range append(stalls, fine...) {
				deliver([]*Stream{g.Stream}, eventFrame(data)) // its own
				if owed := h.Owed(); owed > budget {
					t.Fatalf("%d bytes are owed", owed)
				}
			}
			for _, v := range readers {
				v.next(t, data)
			}
		}
		cut := 0
		for _, g := range stalls {
			g.mu.Lock()
			if g.cut {
				cut++
			}
			g.mu.Unlock()
		}
		if cut == 0 {
			t.Error("nobody was cut")
		}
		for _, g := range fine {
			if len(g.gone) > 0 {
				t.Error("one who reads was cut")
			}
		}
	})
}

// What a stream may owe, step by step: a client that reads may be owed any
// amount; one that does not loses ephemeral frames first, then everything.
func TestASlowStreamShedsEphemeralsThenIsCut(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{Buffer: 25})
	stored, passing := NewFrame([]byte("1234"), false), passingEvent([]byte("abcd")) // 9 bytes each, as chunks
	owes := func(s *Stream) string {
		var all []byte
		for _, f := range s.pending {
			all = append(all, f.data...)
		}
		return string(all)
	}
	s := e.NewStream(shortWords(), func(error) {})
	s.state = gathered // somebody is about to write it
	deliver([]*Stream{s}, stored, stored, stored, stored)
	is.Equal(owes(s), "1234123412341234")

	s = e.NewStream(shortWords(), func(error) {}) // nobody writes it yet
	deliver([]*Stream{s}, stored, passing, passing)
	is.Equal(owes(s), "1234S") // shed once, in its place
	deliver([]*Stream{s}, stored, stored)
	is.Equal(owes(s), "CUT") // the last words alone
	deliver([]*Stream{s}, stored)
	is.Equal(owes(s), "CUT") // nothing follows them

	s = e.NewStream(shortWords(), func(error) {})
	s.pending, s.owed, s.offset, s.taken = []*Frame{passing}, passing.Len(), 2, 1 // half of it is with the client
	deliver([]*Stream{s}, passing, passing, stored)
	is.Equal(owes(s), "abcdS1234") // so it is not shed
	deliver([]*Stream{s}, stored, stored)
	is.Equal(owes(s), "abcdCUT") // and finished first
}

// A sign of life that is shed, for the stream's buffer or for the budget, is no loss: nobody is
// told of a gap.
func TestASignOfLifeIsShedInSilence(t *testing.T) {
	is := is.New(t)
	var reliefs []Relief
	e := NewEngine(Config{Buffer: 20, Budget: 10_000, Relieved: func(r Relief) { reliefs = append(reliefs, r) }})
	s := e.NewStream(shortWords(), func(error) {})
	is.True(e.enter(s))
	s.state = blocked
	stored, ping := NewFrame([]byte("1234"), false), s.owner.Words().Beat // 9 and 6 bytes as chunks
	deliver([]*Stream{s}, stored, stored, ping, ping)
	is.Equal(s.pending, []*Frame{stored, stored}) // the pings were past the buffer

	e.cfg.Buffer = 0
	deliver([]*Stream{s}, ping)
	is.Equal(len(s.pending), 3)
	e.limit.Store(0)
	e.cfg.Budget = 400 // the events may stay
	e.relieve()
	is.Equal(s.pending, []*Frame{stored, stored})

	is.True(!s.shed && !s.cut)
	is.Equal(e.Stats().Shed, int64(0))
	is.Equal(e.Stats().Dropped, [drops]int64{})
	is.Equal(len(reliefs), 0)
	s.end(nil)
	is.NoErr(e.Close(t.Context()))
}

// An epoll event for a stream that has ended does not find the one that has its
// place in the table now.
func TestAPlaceIsNotItsNextHoldersPast(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{})
	defer e.Close(t.Context())
	first, second := e.NewStream(testWords, nil), e.NewStream(testWords, nil)
	is.True(e.enter(first))
	is.Equal(e.at(first.key), first)
	e.leave(first)
	is.Equal(e.at(first.key), nil)
	is.True(e.enter(second))
	is.Equal(second.key.Place, first.key.Place)
	is.Equal(e.at(first.key), nil)
	is.Equal(e.at(second.key), second)
	e.leave(second)
}

func BenchmarkDelivery(b *testing.B) {
	const streams = 1000
	e := NewEngine(Config{})
	f := NewEvents(eventFrame(strings.Repeat("x", 200)).data, 1, false, time.Now()) // counted and timed, as a publish is
	server := httptest.NewUnstartedServer(nil)
	var mu sync.Mutex
	var all []*Stream
	server.Config.ConnContext = tcp.ConnContext
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := e.NewStream(testWords, func(error) {})
		mu.Lock()
		all = append(all, s)
		mu.Unlock()
		e.Serve(w, r, s)
	})
	server.Start()
	defer server.Close()
	var wg sync.WaitGroup
	for range streams {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			b.Fatal(err)
		}
		wg.Go(func() { io.Copy(io.Discard, conn) })
	}
	defer wg.Wait()
	defer func() {
		for _, s := range all {
			s.Close(testLast)
		}
		e.Close(context.Background())
	}()
	b.ReportAllocs()
	for b.Loop() {
		deliver(all, f)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/streams, "ns/delivery")
}
