package engine

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/tcp"

	"github.com/matryer/is"
)

// A stream over TLS, or a socket, has no goroutine, and once nothing is owed no buffer of ours.
func TestASessionHasNoGoroutine(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			h := openHouseWith(t, Config{}, newCertificate(t))
			defer h.stop()
			h.version = version
			open := func(from, to int) {
				for i := from; i < to; i++ {
					h.open(t, fmt.Sprint("stream", i))
					v, _ := h.upgrade(t, fmt.Sprint("socket", i), "")
					_, err := io.WriteString(v.peer, "hello")
					is.NoErr(err)
					v.expect(t, []byte("hello"))
				}
			}
			busy := func() int { return runtime.NumGoroutine() - int(h.resting.Load()) }
			open(0, 1) // the engine's own begin with it
			before := busy()
			open(1, 30)
			eventually(t, "the handlers to be over", func() bool { return busy() <= before })
			is.Equal(h.Streams(), 60)
			eventually(t, "nothing to be owed", func() bool { return h.Owed() == 0 })
			for _, g := range h.streams {
				is.True(g.socket.Secure())
			}
			h.leave()
			h.close(t)
		})
	}
}

// corked is a client's connection that sends together what was written while it is held.
type corked struct {
	net.Conn
	held bool
	kept bytes.Buffer
}

// Write implements net.Conn.
func (c *corked) Write(p []byte) (int, error) {
	if c.held {
		return c.kept.Write(p)
	}
	return c.Conn.Write(p)
}

// What came in records behind the request was read by the session before its socket was taken: no
// socket tells of it.
func TestWhatASessionHasRead(t *testing.T) {
	is := is.New(t)
	h := openHouseWith(t, Config{}, newCertificate(t))
	defer h.stop()
	visit := func(name, request string, then func(*tls.Conn)) *visitor {
		dialled, err := net.Dial("tcp", h.addr)
		is.NoErr(err)
		t.Cleanup(func() { dialled.Close() })
		cork := &corked{Conn: dialled}
		session := tls.Client(cork, &tls.Config{InsecureSkipVerify: true})
		is.NoErr(session.Handshake())
		cork.held = true
		_, err = io.WriteString(session, strings.ReplaceAll(request, "NAME", name))
		is.NoErr(err)
		then(session)
		cork.held = false
		is.NoErr(dialled.SetWriteDeadline(time.Time{})) // CloseWrite lets nothing be written after it
		_, err = cork.Write(cork.kept.Bytes())
		is.NoErr(err)
		return newVisitor(dialled, session)
	}
	v := visit("talks", upgrade, func(session *tls.Conn) { io.WriteString(session, "and this") })
	v.head(t)
	v.expect(t, []byte("and this"))

	for name, request := range map[string]string{"stream": get, "socket": upgrade} {
		visit(name, request, func(session *tls.Conn) { session.CloseWrite() }) // and not its socket
		is.Equal(h.guest(t, name).wait(t), ErrGone)
	}
	v.Close()
	h.close(t)
}

// What a session has sealed, and its socket has no room for, is owed beside the frames.
func TestWhatASessionKeepsIsOwed(t *testing.T) {
	is := is.New(t)
	h := openHouseWith(t, Config{}, newCertificate(t))
	defer h.stop()
	v, g := h.open(t, "a")
	f := eventFrame(strings.Repeat("x", 30_000))
	fill(t, g.Stream, f)
	eventually(t, "the socket to be full", func() bool {
		g.mu.Lock() // nobody writes meanwhile
		defer g.mu.Unlock()
		if g.state != blocked {
			return false
		}
		is.True(h.Owed() > f.memory()+listed*int64(len(g.pending)))
		return true
	})
	v.Close()
	g.wait(t)
	h.close(t)
	is.Equal(h.Owed(), int64(0))
}

// sizes notes the largest write of an answer.
type sizes struct {
	http.ResponseWriter
	largest *int
}

// Write implements http.ResponseWriter.
func (s sizes) Write(p []byte) (int, error) {
	*s.largest = max(*s.largest, len(p))
	return s.ResponseWriter.Write(p)
}

func (s sizes) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// An HTTP/2 connection keeps the room of its largest frame, which a stream therefore keeps small.
func TestHTTP2IsWrittenInPieces(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{})
	largest, gone := 0, make(chan error, 1)
	event := eventFrame(strings.Repeat("x", 100_000))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := e.NewStream(testWords, func(why error) { gone <- why })
		deliver([]*Stream{s}, event)
		s.Close(testLast)
		e.Serve(sizes{w, &largest}, r, s)
	}))
	server.Config.ConnContext, server.EnableHTTP2 = tcp.ConnContext, true
	server.StartTLS()
	defer server.Close()
	res, err := server.Client().Get(server.URL)
	is.NoErr(err)
	defer res.Body.Close()
	is.Equal(res.ProtoMajor, 2)
	all, err := io.ReadAll(res.Body)
	is.NoErr(err)
	is.Equal(string(all), string(event.data)+string(testLast.data))
	is.NoErr(<-gone)
	is.Equal(largest, framePiece)
	is.NoErr(e.Close(t.Context()))
}
