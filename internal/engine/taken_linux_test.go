package engine

import (
	"bufio"
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

	"realtimehub/internal/tcp"

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
	server.Config.ConnContext = tcp.ConnContext
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
	const clients = 4 * tcp.AtOnce
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
	is.True(input.goroutines.Load()-before <= 2*tcp.AtOnce)
	h.leave()
	h.close(t)
}
