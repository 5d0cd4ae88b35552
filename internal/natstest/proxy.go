package natstest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and one server, and understands what they say to each
// other, so that a test can lose, delay or repeat the messages that it chooses. Clients
// learn of no other server: give them the proxies of all.
type Proxy struct {
	listener net.Listener
	target   string

	mu sync.Mutex
	// Guarded by mu.
	rule   func(*Message) Verdict
	conns  map[net.Conn]struct{} // of both sides
	count  int
	closed bool          // for good
	cut    bool          // whoever connects is turned away
	silent chan struct{} // closed once bytes flow again; nil: they flow
}

// Verdict is what becomes of a message; the zero one passes it.
type Verdict struct {
	Drop  bool
	Twice bool
	// Late passes the message after so long, and what follows it before it.
	Late time.Duration
	// After is Late until it is closed.
	After <-chan struct{}
	// Instead, if not nil, is passed as the payload of a PUB or MSG, as by a server that
	// is behind.
	Instead []byte
}

// StartProxy starts a proxy before the server of a URL, until the test ends.
func StartProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", FreePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: strings.TrimPrefix(server, "nats://"), conns: map[net.Conn]struct{}{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Cut()
		p.flow()
		serving.Wait()
	})
	return p
}

// Proxies starts a proxy before each server.
func (b *Broker) Proxies(t testing.TB) (proxies []*Proxy) {
	t.Helper()
	for i := range b.Servers {
		proxies = append(proxies, StartProxy(t, b.URL(i)))
	}
	return proxies
}

// URL is for clients.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Rule decides about each message from now on; nil passes all. It is called by one
// goroutine for each direction of each connection: what follows there waits for it.
func (p *Proxy) Rule(rule func(*Message) Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// Cut ends all connections, and turns new ones away until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		c.Close()
	}
}

// Silence lets nothing through, either way, and closes nothing, until Mend: then what
// was said meanwhile arrives, as after a partition.
func (p *Proxy) Silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent == nil {
		p.silent = make(chan struct{})
	}
}

// Mend ends Cut and Silence.
func (p *Proxy) Mend() {
	p.mu.Lock()
	p.cut = p.closed
	p.mu.Unlock()
	p.flow()
}

func (p *Proxy) flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent != nil {
		close(p.silent)
		p.silent = nil
	}
}

// state is what holds now, once bytes flow.
func (p *Proxy) state() func(*Message) Verdict {
	for {
		p.mu.Lock()
		rule, silent := p.rule, p.silent
		p.mu.Unlock()
		if silent == nil {
			return rule
		}
		<-silent
	}
}

func (p *Proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// leave closes both sides of a connection.
func (p *Proxy) leave(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(p.conns, c)
	}
}

func (p *Proxy) serve(client net.Conn) {
	if !p.add(client) {
		return
	}
	p.state() // who is cut off in silence gets no answer
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.add(server) {
		p.leave(client)
		return
	}
	p.mu.Lock()
	p.count++
	number := p.count
	p.mu.Unlock()
	var name sync.Map // "": the client's name
	var both sync.WaitGroup
	way := func(from, to net.Conn, fromServer bool) {
		defer p.leave(from, to)
		out := &lockedWriter{w: to}
		in := bufio.NewReaderSize(from, 64<<10)
		for {
			m, err := readMessage(in)
			if err != nil {
				return
			}
			m.Conn, m.FromServer = number, fromServer
			switch m.Verb {
			case "INFO":
				m.hideServers()
			case "CONNECT":
				var options struct{ Name string }
				json.Unmarshal(m.Data, &options)
				name.Store("", options.Name)
			}
			if n, ok := name.Load(""); ok {
				m.Client = n.(string)
			}
			var v Verdict
			if rule := p.state(); rule != nil {
				v = rule(m)
			}
			if v.Drop {
				continue
			}
			if v.Instead != nil {
				m.replace(v.Instead)
			}
			if v.Twice {
				m.raw = append(m.raw, m.raw...)
			}
			switch {
			case v.After != nil:
				go func() {
					<-v.After
					out.write(m.raw)
				}()
			case v.Late > 0:
				time.AfterFunc(v.Late, func() { out.write(m.raw) })
			default:
				out.write(m.raw)
			}
		}
	}
	both.Go(func() { way(client, server, false) })
	both.Go(func() { way(server, client, true) })
	both.Wait()
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// write writes a whole message. A connection that is over ends where it is read.
func (l *lockedWriter) write(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.Write(b)
}
