//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"realtimehub/internal/loadtest/reader"

	"github.com/gobwas/ws"
)

const (
	patience   = 5 * time.Minute // for whatever is awaited, also of a slow server on a busy machine
	window     = 256             // streams that are being opened at a time
	publishers = 8               // keep-alive connections to publish over
	sources    = 8               // addresses 127.0.0.1… to connect from, so that ports do not run out

	bindAddressNoPort = 24 // IP_BIND_ADDRESS_NO_PORT: a port may serve several sources
)

// client holds all streams in one epoll, for one goroutine: it must cost so
// little that the server is what is measured.
type client struct {
	epoll   int
	server  *server
	servers []*server // over which the streams are spread; server is the first
	streams []stream
	ready   int // streams that have what the server greets with
	events  int // of all streams
	bytes   int // read from all streams
	first   int // the number of the first stream's profile
	receive int // bytes of a socket's receive buffer, 0 for the kernel's choice
	sentAt  time.Time
	waits   []time.Duration // since sentAt, of every event, where there is room for it
	buf     []byte
	polled  []syscall.EpollEvent
}

type stream struct {
	reader.Reader
	fd    int
	said  bool // what the server is told first
	ready bool
}

func newClient(servers ...*server) (*client, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &client{epoll: epoll, server: servers[0], servers: servers, buf: make([]byte, 256<<10), polled: make([]syscall.EpollEvent, 512)}, nil
}

// close resets the streams, so that none of their ports stays in TIME_WAIT.
func (c *client) close() {
	for i := range c.streams {
		fd := c.streams[i].fd
		syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		syscall.Close(fd)
	}
	syscall.Close(c.epoll)
}

// open opens n streams, evenly over a time or as fast as they are answered, and
// waits until each is ready.
func (c *client) open(n int, over time.Duration) error {
	c.streams = make([]stream, 0, n)
	start := time.Now()
	for i := range n {
		due := start.Add(over * time.Duration(i) / time.Duration(n))
		if err := c.until("free places to connect", func() bool { return i-c.ready < window && !time.Now().Before(due) }); err != nil {
			return err
		}
		if err := c.connect(i); err != nil {
			return fmt.Errorf("%s: stream %d: %w", c.server.name, i, err)
		}
	}
	return c.until("streams to be ready", func() bool { return c.ready == n })
}

func (c *client) connect(i int) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.streams = append(c.streams, stream{fd: fd})
	if c.receive > 0 {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, c.receive); err != nil {
			return fmt.Errorf("SO_RCVBUF: %w", err)
		}
	}
	server := c.servers[i%len(c.servers)]
	to := server.addr
	if to.Addr().IsLoopback() {
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1); err != nil {
			return fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i%sources)}}); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := syscall.Write(fd, server.subscribe(c.first+i)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	const edge = 1 << 31 // EPOLLET, which package syscall has as a negative number
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | edge, Fd: int32(i)}
	if err := syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// pump reads what has come, or waits for it so many milliseconds.
func (c *client) pump(wait int) error {
	n, err := syscall.EpollWait(c.epoll, c.polled, wait)
	if err != nil && err != syscall.EINTR {
		return fmt.Errorf("epoll: %w", err)
	}
	for i := range max(n, 0) {
		index := c.polled[i].Fd
		if err := c.drain(int(index)); err != nil {
			return fmt.Errorf("%s: stream %d: %w", c.server.name, index, err)
		}
	}
	return nil
}

// drain reads until a stream has no more: the epoll tells only of changes.
func (c *client) drain(index int) error {
	s := &c.streams[index]
	for {
		n, err := syscall.Read(s.fd, c.buf)
		switch {
		case err == syscall.EAGAIN:
			return nil
		case err == syscall.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errors.New("ended by the server")
		}
		had := s.Events
		if err := s.Feed(c.buf[:n]); err != nil {
			return err
		}
		c.bytes += n
		c.events += s.Events - had
		if s.Events > had && len(c.waits) < cap(c.waits) {
			c.waits = append(c.waits, time.Since(c.sentAt))
		}
		if err := c.answer(s, index); err != nil {
			return err
		}
		if !s.ready && c.server.greeted(&s.Reader) {
			s.ready = true
			c.ready++
		}
		if n < len(c.buf) {
			return nil
		}
	}
}

// answer says what a server is to be told once a WebSocket is open, and answers its ping.
func (c *client) answer(s *stream, index int) error {
	if !s.said && s.Begun() {
		s.said = true
		if hello := c.server.hello(c.first + index); hello != "" {
			if err := s.say(hello); err != nil {
				return err
			}
		}
	}
	if !s.Pinged() {
		return nil
	}
	return s.send(reader.FromClient(ws.OpPong, ""))
}

// say sends a text on a WebSocket.
func (s *stream) say(text string) error { return s.send(reader.FromClient(ws.OpText, text)) }

// send sends what the kernel has room for: it is little.
func (s *stream) send(frame []byte) error {
	n, err := syscall.Write(s.fd, frame)
	if err == nil && n < len(frame) {
		err = fmt.Errorf("only %d bytes of %d", n, len(frame))
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// until pumps until something is done.
func (c *client) until(what string, done func() bool) error {
	for end := time.Now().Add(patience); !done(); {
		if err := c.pump(1); err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: waited %v for %s: %d streams ready, %d events", c.server.name, patience, what, c.ready, c.events)
		}
	}
	return nil
}

// rest pumps for a time.
func (c *client) rest(d time.Duration) error {
	end := time.Now().Add(d)
	return c.until("time to pass", func() bool { return !time.Now().Before(end) })
}

// settle waits until no event has come for a time (presence is told late), and
// counts from zero then.
func (c *client) settle(quiet time.Duration) error {
	had, since := c.events, time.Now()
	err := c.until("silence", func() bool {
		if c.events != had {
			had, since = c.events, time.Now()
		}
		return time.Since(since) >= quiet
	})
	c.events, c.bytes = 0, 0
	for i := range c.streams {
		c.streams[i].Events = 0
	}
	return err
}

// delivered waits until every stream has had exactly so many events since it
// settled.
func (c *client) delivered(each int) error {
	want := each * len(c.streams)
	if err := c.until(fmt.Sprintf("%d events", want), func() bool { return c.events >= want }); err != nil {
		return err
	}
	for i := range c.streams {
		if got := c.streams[i].Events; got != each {
			return fmt.Errorf("%s: stream %d has %d events instead of %d", c.server.name, i, got, each)
		}
	}
	return nil
}

// poster publishes over keep-alive connections.
type poster struct{ conns []*bufio.ReadWriter }

func newPoster(addr string) (*poster, func(), error) { return dial(publishers, addr) }

// dial opens n connections, spread over addresses.
func dial(n int, addrs ...string) (*poster, func(), error) {
	p := &poster{}
	var conns []net.Conn
	stop := func() {
		for _, conn := range conns {
			conn.Close()
		}
	}
	for i := range n {
		conn, err := net.Dial("tcp", addrs[i%len(addrs)])
		if err != nil {
			stop()
			return nil, nil, err
		}
		conns = append(conns, conn)
		p.conns = append(p.conns, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriterSize(conn, 64<<10)))
	}
	return p, stop, nil
}

// send sends n requests over all connections, each after the answer to the one
// before; the channel has one error, or nil, when all are answered.
func (p *poster) send(n int, request func(i int) []byte) <-chan error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, min(n, len(p.conns)))
	for at := range errs {
		wg.Go(func() {
			for errs[at] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[at] = roundTrip(p.conns[at], request(i))
			}
		})
	}
	done := make(chan error, 1)
	go func() {
		wg.Wait()
		done <- errors.Join(errs...)
	}()
	return done
}

func roundTrip(conn *bufio.ReadWriter, request []byte) error {
	if _, err := conn.Write(request); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	answer, err := http.ReadResponse(conn.Reader, nil)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if answer.StatusCode/100 != 2 || bytes.Contains(body, []byte(`"refused":`)) && !bytes.Contains(body, []byte(`"refused":0,`)) {
		return fmt.Errorf("publish: answered %s %.200s", answer.Status, body)
	}
	return nil
}
