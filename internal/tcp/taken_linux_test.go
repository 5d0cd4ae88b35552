package tcp

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// host takes the socket of each request that comes to it.
type host struct {
	addr    string
	held    atomic.Int64
	sockets chan *Socket
}

// openHost speaks TLS where there is a certificate.
func openHost(t *testing.T, certificate *tls.Certificate) *host {
	t.Helper()
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{addr: listener.Addr().String(), sockets: make(chan *Socket)}
	var polling sync.WaitGroup
	poller := NewPoller(&h.held, polling.Go, func([]Event) {})
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := new(Socket)
		poller.Take(w, r, s, Key{})
		h.sockets <- s
	})}
	if certificate != nil {
		listener = tls.NewListener(Secure(listener), &tls.Config{Certificates: []tls.Certificate{*certificate}})
	}
	go server.Serve(listener)
	t.Cleanup(func() {
		server.Close()
		poller.Close()
		polling.Wait()
	})
	return h
}

// ask has the host take the socket of a client's connection, which is closed with the test.
func (h *host) ask(t *testing.T, client net.Conn) *Socket {
	t.Helper()
	is := is.New(t)
	_, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	is.NoErr(err)
	s := <-h.sockets
	is.True(s.Taken())
	t.Cleanup(s.Close)
	return s
}

// stays is an answer whose connection net/http does not give away.
type stays struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (stays) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }

// What a client sends behind a request whose socket cannot be taken after all is net/http's, and
// so is the socket: nothing of it is kept open.
func TestWhatIsNotTakenIsLeft(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	for name, failed := range map[string]struct {
		ended bool // the poller
		stays bool // the connection
	}{"not watched": {ended: true}, "not hijacked": {stays: true}} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var held atomic.Int64
			var polling sync.WaitGroup
			poller := NewPoller(&held, polling.Go, func([]Event) {})
			if failed.ended {
				poller.Close()
			}
			arrived, got := make(chan bool), make(chan []byte, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				<-arrived
				asked := w
				if failed.stays {
					asked = stays{w}
				}
				var s Socket
				_, taken := poller.Take(asked, r, &s, Key{})
				conn, rw, err := http.NewResponseController(w).Hijack()
				if taken || s.Taken() || err != nil {
					t.Error("the socket was taken", err)
					close(got)
					return
				}
				defer conn.Close()
				conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				all := make([]byte, len(sent))
				n, _ := io.ReadFull(rw, all)
				got <- all[:n]
			}))
			server.Config.ConnContext = ConnContext
			server.Start()
			defer server.Close()
			client, err := net.Dial("tcp", server.Listener.Addr().String())
			is.NoErr(err)
			defer client.Close()
			_, err = io.WriteString(client, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			is.NoErr(err)
			_, err = client.Write(sent)
			is.NoErr(err)
			arrived <- true // as it does on loopback
			is.True(bytes.Equal(<-got, sent))
			client.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err = client.Read(make([]byte, 1))
			is.Equal(err, io.EOF)
			poller.Close()
			polling.Wait()
		})
	}
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
	h := openHost(t, nil)
	for range 64 {
		conn, err := net.Dial("tcp", h.addr)
		is.NoErr(err)
		defer conn.Close()
		check(t, "taken", int(h.ask(t, conn).fd))
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
}

// kept is how many bytes of records wait for room.
func (s *Socket) kept() int {
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	return len(s.records.rest)
}

// A client that reads nothing has one record kept, and few answers to its own: a session answers
// each change of keys.
func TestWhatASessionKeeps(t *testing.T) {
	is := is.New(t)
	cert, key, err := testkit.WriteCertificate(t.TempDir(), "tcp")
	is.NoErr(err)
	pair, err := tls.LoadX509KeyPair(cert, key)
	is.NoErr(err)
	h := openHost(t, &pair)
	dialled, err := net.Dial("tcp", h.addr)
	is.NoErr(err)
	client := tls.Client(dialled, &tls.Config{InsecureSkipVerify: true})
	defer client.Close()
	s := h.ask(t, client)

	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than the sockets have room for
	rest := data
	send := func() bool {
		n, err := s.Send(rest)
		rest = rest[n:]
		if len(rest) > 0 {
			is.Equal(err, ErrFull)
		}
		return len(rest) == 0
	}
	testkit.Eventually(t, func() bool { return !send() && s.kept() > 0 })
	is.True(s.kept() <= maxRecord+1000)
	is.Equal(h.held.Load(), int64(s.kept()))

	got := make(chan []byte)
	go func() {
		all := make([]byte, len(data))
		io.ReadFull(client, all)
		got <- all
	}()
	testkit.Eventually(t, send)
	is.True(bytes.Equal(<-got, data))
	is.Equal(h.held.Load(), int64(0))

	rest = data
	testkit.Eventually(t, func() bool { return !send() && s.kept() > 0 })
	answers, held := 0, h.held.Load()
	for err = nil; err == nil && answers < mostRest; answers++ {
		_, err = s.records.Write(make([]byte, 27))
	}
	is.Equal(err, ErrTooMuch)
	is.True(answers <= mostRest/27)
	is.Equal(h.held.Load()-held, int64(27*(answers-1))) // all but the one that was refused
	is.True(s.kept() <= mostRest)
	s.End()
	is.Equal(h.held.Load(), int64(0))
}
