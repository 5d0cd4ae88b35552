package lobby

import (
	"errors"
	"net"
	"runtime"
	"time"

	"github.com/pires/go-proxyproto"

	"realtimehub/internal/reserve"
)

// headerTime is how long a proxy may take to say for whom it connects.
const headerTime = 5 * time.Second

var errRefused = errors.New("the address has as many connections as it may")

// Listener lets those in for whom there is a place. Of a proxy it reads the PROXY
// protocol's header, version 1 or 2, where there is one.
func (l *Lobby) Listener(inner net.Listener) net.Listener { return &listener{inner, l} }

type listener struct {
	net.Listener
	lobby *Lobby
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c = l.lobby.receive(c); c != nil {
			return c, nil
		}
	}
}

// receive is the connection as it is to be used, or nil when there is no place for it.
func (l *Lobby) receive(c net.Conn) net.Conn {
	addr, all := addressOf(c.RemoteAddr()), l.cfg.All
	if kept := reserve.Kept() / 2; reserve.Has(c) && (all == 0 || all > kept) {
		all = kept // the other half is for who has proven something
	}
	g := &guest{lobby: l, conn: c, came: time.Now()}
	if !l.enter(g, addr, all) {
		abort(c)
		return nil
	}
	if l.cfg.Proxies.trusts(addr) {
		c = &forwarded{proxyproto.NewConn(c, proxyproto.WithPolicy(proxyproto.USE), proxyproto.SetReadHeaderTimeout(headerTime),
			proxyproto.ValidateHeader(func(h *proxyproto.Header) error {
				if client := addressOf(h.SourceAddr); !h.Command.IsLocal() && client.IsValid() && !l.move(g, client) {
					return errRefused
				}
				return nil
			}))}
	}
	l.mu.Lock()
	l.conns[c] = g
	crowded := l.size > l.cfg.Address/4
	l.mu.Unlock()
	if crowded {
		runtime.Gosched() // who came before says who it is, and leaves its place
	}
	return c
}

// forwarded is a connection of a proxy, whose first bytes may say for whom it is.
type forwarded struct{ *proxyproto.Conn }

// NetConn is the socket, as of [crypto/tls.Conn].
func (f *forwarded) NetConn() net.Conn { return f.Raw() }
