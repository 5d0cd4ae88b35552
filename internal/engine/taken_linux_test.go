package engine

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
)

// keeper is an answer whose connection cannot be taken.
type keeper struct{ http.ResponseWriter }

func (k keeper) Unwrap() http.ResponseWriter { return k.ResponseWriter }
func (k keeper) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("this connection stays where it is")
}

// A stream whose connection cannot be taken once its socket is watched is served all
// the same; and what its client sends, or its leaving, is not epoll's to tell.
func TestAConnectionThatCannotBeTaken(t *testing.T) {
	is := is.New(t)
	e := NewEngine(Config{})
	streams, gone := make(chan *Stream, 1), make(chan error, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := e.NewStream(testWords, func(why error) { gone <- why })
		streams <- s
		if r.URL.Path == "/kept" {
			w = keeper{w}
		}
		e.Serve(w, r, s)
	}))
	server.Config.ConnContext = ConnContext
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	is.NoErr(err)
	defer conn.Close()
	io.WriteString(conn, "GET /kept HTTP/1.1\r\nHost: localhost\r\n\r\n")
	s := <-streams
	deliver([]*Stream{s}, eventFrame("hello"))
	read := func(want string) {
		t.Helper()
		var got []byte
		for buf := make([]byte, 4096); !strings.Contains(string(got), want); {
			n, err := patient{conn}.Read(buf)
			is.NoErr(err)
			got = append(got, buf[:n]...)
		}
	}
	read("data: hello\n\n")
	eventually(t, "the stream to be idle", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.state == idle
	})
	io.WriteString(conn, "xx") // net/http itself reads one
	other, err := net.Dial("tcp", server.Listener.Addr().String())
	is.NoErr(err)
	io.WriteString(other, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-streams
	other.Close()
	is.Equal(<-gone, ErrGone) // so epoll has told of what came before, too
	deliver([]*Stream{s}, eventFrame("after"))
	read("data: after\n\n")
	s.Close(testLast)
	read(string(testLast.data))
	is.NoErr(<-gone)
	is.NoErr(e.Close(t.Context()))
}

// option reads a socket's.
func option(t *testing.T, fd, level, name int) int {
	t.Helper()
	value, err := syscall.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Many probes would have to be lost before a peer is taken for vanished, and those of
// many streams do not go out together; whatever door they came through.
func TestProbesAreManyAndNotAligned(t *testing.T) {
	idles := map[string]map[int]bool{"taken": {}, "TLS": {}}
	check := func(t *testing.T, door string, fd int) {
		is := is.New(t)
		is.Equal(option(t, fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE), 1)
		idle := option(t, fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
		every := option(t, fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
		dead := option(t, fd, syscall.IPPROTO_TCP, tcpUserTimeout) / 1000
		is.Equal(every, 1)
		is.True(dead-idle >= 4+every) // an outage of 4 s is outlived: a probe is before it, or after
		is.True(2*dead+1 <= 25)       // gone within 25 s, also when a write was under way since just before
		idles[door][idle] = true
	}
	is := is.New(t)
	e := NewEngine(Config{})
	streams := make(chan *Stream)
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	is.NoErr(err)
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := e.NewStream(testWords, func(error) {})
		e.Serve(w, r, s)
		streams <- s
	})}
	go server.Serve(listener)
	defer server.Close()
	for range 64 {
		conn, err := net.Dial("tcp", listener.Addr().String())
		is.NoErr(err)
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		s := <-streams
		is.True(s.fd >= 0)
		check(t, "taken", int(s.fd))
		s.Close(testLast)
	}
	secure, err := Listen(t.Context(), "127.0.0.1:0")
	is.NoErr(err)
	defer secure.Close()
	for range 64 {
		conn, err := net.Dial("tcp", secure.Addr().String())
		is.NoErr(err)
		defer conn.Close()
		accepted, err := secure.Accept()
		is.NoErr(err)
		defer accepted.Close()
		ConnContext(t.Context(), tls.Server(accepted, nil))
		fd, ok := dup(accepted.(*net.TCPConn))
		is.True(ok)
		check(t, "TLS", fd)
		closeSocket(fd)
	}
	is.Equal(len(idles["taken"]), keepSpread)
	is.Equal(len(idles["TLS"]), keepSpread)
	is.NoErr(e.Close(t.Context()))
}

// Who takes nothing of what waits for it is cut as slow in time, however little that is,
// and learns of it when it reads on.
func TestWhoTakesNothingIsCut(t *testing.T) {
	for _, path := range []string{"taken", "plain"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			h := openHouse(t, Config{Plain: path == "plain"})
			defer h.stop()
			v, g := h.open(t, "a")
			event := func(data string) *Frame { return NewEvents([]byte("data: "+data+"\n\n"), 1, false, time.Time{}) }
			sent := fill(t, g.Stream, event(strings.Repeat("x", 200_000))) // more than the kernel takes
			is.Equal(g.wait(t), ErrSlow)
			_, err := io.Copy(io.Discard, v)
			is.True(errors.Is(err, syscall.ECONNRESET))
			stats := h.Stats()
			is.Equal(stats.Delivered+stats.Dropped[DropCut], int64(sent))
			is.Equal(stats.Dropped[DropGone], int64(0))
			h.close(t)
		})
	}
}

// most remembers with how many goroutines at most it has received.
type most struct{ goroutines, received *atomic.Int64 }

// Ended implements Input.
func (most) Ended() {}

// Received implements Input.
func (m most) Received([]byte) {
	m.goroutines.Store(max(m.goroutines.Load(), int64(runtime.NumGoroutine())))
	m.received.Add(1)
}

// However many clients send at once, they are not all read at once: Go keeps what a goroutine
// took for ever.
func TestManyWhoSendAtOnce(t *testing.T) {
	is := is.New(t)
	const clients = 4 * polledAtOnce
	h := openHouse(t, Config{})
	defer h.stop()
	var input most
	input.goroutines, input.received = new(atomic.Int64), new(atomic.Int64)
	var all []*visitor
	for i := range clients {
		v, _ := h.upgradeTo(t, fmt.Sprint(i), input)
		all = append(all, v)
	}
	eventually(t, "nothing to be owed", func() bool { return h.Owed() == 0 })
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	before := int64(runtime.NumGoroutine())
	h.Engine.mu.Lock() // the poller finds no stream meanwhile
	for _, v := range all {
		if _, err := v.peer.Write([]byte("!")); err != nil {
			t.Error(err)
		}
	}
	h.Engine.mu.Unlock()
	eventually(t, "all to be heard", func() bool { return input.received.Load() == clients })
	is.True(input.goroutines.Load()-before <= 2*polledAtOnce)
	h.leave()
	h.close(t)
}
