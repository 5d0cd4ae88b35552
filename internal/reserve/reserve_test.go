package reserve

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// A connection is of the reserve when its descriptor is, over TLS as well; and the
// reserve has begun when all below it are taken.
func TestReserve(t *testing.T) {
	is := is.New(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer listener.Close()
	connect := func() net.Conn {
		client, err := net.Dial("tcp", listener.Addr().String())
		is.NoErr(err)
		t.Cleanup(func() { client.Close() })
		server, err := listener.Accept()
		is.NoErr(err)
		t.Cleanup(func() { server.Close() })
		return server
	}
	own, ok := spare()
	if !ok {
		hubtest.Lacks(t, "no descriptor is kept here")
	}
	zeroth, first := connect(), connect()
	r := reserve{descriptor(first) + 1, own, 1}
	holds := func(r reserve, c net.Conn) bool { return Holds(r.connContext(context.Background(), c)) }
	is.True(!holds(r, first))
	second := connect()
	is.True(holds(r, second))
	is.True(holds(r, tls.Server(second, &tls.Config{})))
	is.True(!holds(reserve{}, second))
	pipe, other := net.Pipe()
	defer other.Close()
	is.True(!holds(r, pipe)) // it has no descriptor

	is.True(r.begun())
	zeroth.Close()
	is.True(!r.begun()) // one below is free again, though the last is in use
	first.Close()
	is.True(!r.begun()) // the last is free
	is.True(!Begun())
}
