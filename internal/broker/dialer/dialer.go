package dialer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// ErrDialing: the connection is not there yet; who asks again later may have it.
var ErrDialing = errors.New("the connection is still being opened")

const (
	patience = 20 * time.Millisecond // of who asks: in a near network that is enough
	keepFor  = 2 * time.Second       // what nobody has asked for again
)

// Dialer is a nats.CustomDialer. A connection is there once its server has said something,
// which NATS servers do first.
type Dialer struct {
	Timeout time.Duration // for that

	mu    sync.Mutex
	dials map[string]*dial // guarded by mu, by address
}

// dial is one under way. It is over when done is closed.
type dial struct {
	done chan struct{}
	conn net.Conn
	err  error
}

// Dial returns a connection, or why there is none; soon ErrDialing.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	c := d.dials[address]
	if c == nil {
		c = &dial{done: make(chan struct{})}
		if d.dials == nil {
			d.dials = map[string]*dial{}
		}
		d.dials[address] = c
		go d.run(c, network, address)
	}
	d.mu.Unlock()
	select {
	case <-c.done:
	case <-time.After(patience):
		return nil, ErrDialing
	}
	if !d.take(address, c) {
		return nil, ErrDialing // another has it
	}
	return c.conn, c.err
}

// take takes what a dial has brought, which one may do.
func (d *Dialer) take(address string, c *dial) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dials[address] != c {
		return false
	}
	delete(d.dials, address)
	return true
}

func (d *Dialer) run(c *dial, network, address string) {
	ctx, cancel := context.WithTimeout(context.Background(), d.Timeout)
	defer cancel()
	if c.conn, c.err = connect(ctx, network, address); c.err == nil {
		c.conn, c.err = spoken(ctx, c.conn)
	}
	close(c.done)
	time.AfterFunc(keepFor, func() {
		if d.take(address, c) && c.err == nil {
			c.conn.Close()
		}
	})
}

// connect connects to one of a name's addresses, in no order: behind one name there may be
// several servers.
func connect(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	deadline, _ := ctx.Deadline()
	dialer := net.Dialer{Timeout: time.Until(deadline) / time.Duration(len(hosts))}
	var conn net.Conn
	for _, host := range hosts {
		if conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(host, port)); err == nil {
			break
		}
	}
	return conn, err
}

// spoken waits for a server's first byte.
func spoken(ctx context.Context, conn net.Conn) (net.Conn, error) {
	s := &spoke{Conn: conn, first: make([]byte, 1)}
	deadline, _ := ctx.Deadline()
	conn.SetReadDeadline(deadline)
	if _, err := conn.Read(s.first); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetReadDeadline(time.Time{})
	return s, nil
}

// spoke is a connection whose first bytes were read.
type spoke struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (s *spoke) Read(b []byte) (int, error) {
	if len(s.first) == 0 {
		return s.Conn.Read(b)
	}
	n := copy(b, s.first)
	s.first = s.first[n:]
	return n, nil
}
