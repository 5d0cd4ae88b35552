package tcp

import (
	"io"
	"net"
	"testing"

	"github.com/matryer/is"
)

// Input that nobody read does not make a close a reset, which would take the
// last words from a client that has not read them yet.
func TestCloseSocketIsNoReset(t *testing.T) {
	is := is.New(t)
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	is.NoErr(err)
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	is.NoErr(err)
	defer client.Close()
	server, err := listener.Accept()
	is.NoErr(err)
	fd, ok := dup(server.(*net.TCPConn))
	is.True(ok)
	is.NoErr(server.Close())
	_, err = client.Write(make([]byte, 10_000))
	is.NoErr(err) // on loopback it has arrived by now
	n, err := send(fd, []byte("last words"))
	is.NoErr(err)
	is.Equal(n, 10)
	closeSocket(fd)
	got, err := io.ReadAll(client)
	is.NoErr(err)
	is.Equal(string(got), "last words")
}
