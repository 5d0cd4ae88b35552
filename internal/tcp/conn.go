package tcp

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
)

type connKey struct{}

// ConnContext is for [http.Server].ConnContext: it lets a [Poller] take the socket of a request,
// where that can be done.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	var from source
	from.session, _ = c.(*tls.Conn)
	if from.session != nil {
		c = from.session.NetConn()
		from.carrier, _ = c.(*carrier)
	}
	for { // of a proxy, which said for whom it is
		around, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = around.NetConn()
	}
	var ok bool
	if from.tcp, ok = c.(*net.TCPConn); !ok {
		return ctx
	}
	if from.session != nil { // it may not be taken, which would do it
		if raw, err := from.tcp.SyscallConn(); err == nil {
			raw.Control(spreadProbes)
		}
	}
	return context.WithValue(ctx, connKey{}, &from)
}

// source is a connection whose socket may be taken.
type source struct {
	tcp     *net.TCPConn
	session *tls.Conn // nil: clear text
	carrier *carrier  // of the session; nil: it keeps its socket
}

// sourceOf is a request's connection; nil: its socket cannot be taken.
func sourceOf(r *http.Request) *source {
	from, ok := r.Context().Value(connKey{}).(*source)
	if !ok || (r.TLS != nil) != (from.session != nil) || from.session != nil && from.carrier == nil {
		return nil
	}
	return from
}

// CanTake says whether a request's socket can be taken.
func CanTake(r *http.Request) bool { return canTake && sourceOf(r) != nil }
