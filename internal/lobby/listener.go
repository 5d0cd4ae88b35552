package lobby

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"realtimehub/internal/reserve"
	"realtimehub/internal/tcp"
)

// headerTime is how long a proxy may take to say for whom it connects.
const headerTime = 5 * time.Second

var errRefused = errors.New("the address has reached its limit of connections")

// mostWaiting is how many may wait for a place, as many as Linux has wait to be accepted:
// of the descriptors a quarter.
func mostWaiting() int {
	if outside := reserve.Outside(); outside > 0 {
		return min(4096, outside/4)
	}
	return 4096
}

// Listener lets those in for whom there is a place. Who has to wait for one keeps nobody
// else waiting. Of a proxy it reads the PROXY protocol's header, version 1 or 2, where there
// is one.
func (l *Lobby) Listener(inner net.Listener) net.Listener {
	x := &listener{
		Listener: inner, lobby: l,
		waiting: make(chan *guest, mostWaiting()), accepted: make(chan accepted), closed: make(chan struct{}),
	}
	go x.accept()
	go x.seat()
	return x
}

type listener struct {
	net.Listener
	lobby    *Lobby
	waiting  chan *guest
	accepted chan accepted
	closed   chan struct{}
	close    sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements net.Listener.
func (x *listener) Accept() (net.Conn, error) {
	select {
	case a := <-x.accepted:
		return a.conn, a.err
	case <-x.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (x *listener) Close() error {
	x.close.Do(func() { close(x.closed) })
	return x.Listener.Close()
}

// accept never waits for a place: behind who cannot have one is who can.
func (x *listener) accept() {
	for {
		c, err := x.Listener.Accept()
		if err != nil {
			select {
			case x.accepted <- accepted{err: err}:
				continue
			case <-x.closed:
				return
			}
		}
		g := x.lobby.guest(c)
		in, wait := x.lobby.enter(g, comes)
		if wait && !x.waits(g) {
			in, wait = x.lobby.enter(g, atOnce)
		}
		if !wait {
			x.hand(g, in)
		}
	}
}

// waits has a guest wait, where not too many do: of the reserve's descriptors a quarter.
func (x *listener) waits(g *guest) bool {
	if reserve.Has(g.conn) && len(x.waiting) >= reserve.Kept()/4 {
		return false
	}
	select {
	case x.waiting <- g:
		x.lobby.waiting.Add(1)
		return true
	default:
		return false
	}
}

// seat has those who wait enter, one after the other.
func (x *listener) seat() {
	for {
		select {
		case g := <-x.waiting:
			in := x.lobby.await(g)
			x.lobby.waiting.Add(-1)
			x.hand(g, in)
		case <-x.closed:
			for len(x.waiting) > 0 {
				abort((<-x.waiting).conn)
			}
			return
		}
	}
}

// hand hands a guest to net/http, if it was let in.
func (x *listener) hand(g *guest, in bool) {
	if !in {
		abort(g.conn)
		return
	}
	c := x.lobby.open(g)
	select {
	case x.accepted <- accepted{conn: c}:
	case <-x.closed:
		x.lobby.leave(g.conn)
		abort(g.conn)
	}
}

// guest is who comes by a connection.
func (l *Lobby) guest(c net.Conn) *guest {
	g := &guest{lobby: l, conn: c, came: time.Now(), all: l.cfg.All, addr: addressOf(c.RemoteAddr())}
	if kept := reserve.Kept() / 2; reserve.Has(c) && (g.all == 0 || g.all > kept) {
		g.all = kept // the other half is for who has proven something
	}
	return g
}

// open is a guest's connection as it is to be used.
func (l *Lobby) open(g *guest) net.Conn {
	c := tcp.Quick(g.conn)
	if l.cfg.Proxies.trusts(g.addr) {
		c = proxyproto.NewConn(c, proxyproto.WithPolicy(proxyproto.USE), proxyproto.SetReadHeaderTimeout(headerTime),
			proxyproto.ValidateHeader(func(h *proxyproto.Header) error {
				if client := addressOf(h.SourceAddr); !h.Command.IsLocal() && client.IsValid() && !l.move(g, client) {
					return errRefused
				}
				return nil
			}))
	}
	l.mu.Lock()
	l.conns[g.conn] = g
	crowded := l.size > l.cfg.Address/4 || l.cfg.All > 0 && l.size > l.cfg.All/4
	l.mu.Unlock()
	if crowded {
		runtime.Gosched() // who came before says who it is, and leaves its place
	}
	return &opened{Conn: c, guest: g}
}

// opened is a connection as net/http has it. One that never has to wait for its client lets
// others go on now and then. Go itself would have it go on for 10 ms, and with HTTP/2 the
// goroutines of a connection one after the other: beside a hundred that flood, everybody
// else would wait for a second.
type opened struct {
	net.Conn
	guest *guest
	work  int // since others went on; whoever reads owns it
}

// What a connection may bring before others go on: so many bytes, and a read is as much
// work as some of them.
const (
	readWork = 512
	mostWork = 8 << 10
)

// How much later a connection is read for each request that was taken back, and for how many
// at a time: its end is not noticed meanwhile.
const (
	takenPause = 10 * time.Millisecond
	mostTaken  = 25
)

// Read implements net.Conn.
func (c *opened) Read(p []byte) (int, error) {
	if taken := min(c.guest.taken.Load(), mostTaken); taken > 0 {
		c.guest.taken.Add(-taken)
		time.Sleep(time.Duration(taken) * takenPause)
	}
	n, err := c.Conn.Read(p)
	c.guest.lobby.brings(c.guest, n)
	if c.work += readWork + n; c.work >= mostWork {
		c.work = 0
		runtime.Gosched()
	}
	return n, err
}

// RemoteAddr implements net.Conn. It is what net/http asks first on the goroutine that serves a
// connection: while little is on its stack that is made as large as a request needs it, which
// costs less than to do so in two steps, the second of them in the depth of a call.
func (c *opened) RemoteAddr() net.Addr {
	growStack()
	return c.Conn.RemoteAddr()
}

// stackNeeded is about how many bytes of stack a request for a stream takes.
const stackNeeded = 4 << 10

//go:noinline
func growStack() {
	var room [stackNeeded]byte
	runtime.KeepAlive(room[:])
}

// CloseWrite is for net/http, so that the last answer to who still sends is not lost.
func (c *opened) CloseWrite() error {
	if tcp, ok := c.guest.conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn is the socket, as of [crypto/tls.Conn].
func (c *opened) NetConn() net.Conn { return c.guest.conn }
