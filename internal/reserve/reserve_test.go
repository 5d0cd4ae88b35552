package reserve

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"testing"

	"github.com/matryer/is"
)

// A connection is of the reserve when its descriptor is, over TLS as well.
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
	first := connect()
	r := Reserve{descriptor(first) + 1}
	isScarce := func(c net.Conn) bool { return Scarce(r.ConnContext(context.Background(), c)) }
	is.True(!isScarce(first))
	second := connect()
	is.True(isScarce(second))
	is.True(isScarce(tls.Server(second, &tls.Config{})))
	pipe, other := net.Pipe()
	defer other.Close()
	is.True(!isScarce(pipe)) // it has no descriptor
	is.True(!Scarce(Reserve{}.ConnContext(context.Background(), second)))

	kept := New()
	file, err := os.Open(os.DevNull)
	is.NoErr(err)
	defer file.Close()
	is.True(kept.from == 0 || kept.from > int(file.Fd())) // the reserve is not begun yet
}
