package tcp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
)

// quickPair is a connection that is quick at its server's end.
func quickPair(t *testing.T) (server *quick, client *net.TCPConn) {
	t.Helper()
	is := is.New(t)
	listener, err := Listen(t.Context(), "127.0.0.1:0")
	is.NoErr(err)
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	is.NoErr(err)
	t.Cleanup(func() { dialled.Close() })
	accepted, err := listener.Accept()
	is.NoErr(err)
	t.Cleanup(func() { accepted.Close() })
	return Quick(accepted).(*quick), dialled.(*net.TCPConn)
}

// A first read of a few bytes takes all that has come from the socket, and those after it are
// given the rest. Later reads take what they ask for, however little.
func TestTheFirstReadTakesAll(t *testing.T) {
	is := is.New(t)
	server, client := quickPair(t)
	read := func(n int) string {
		p := make([]byte, n)
		n, err := server.Read(p)
		is.NoErr(err)
		return string(p[:n])
	}
	_, err := client.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM"))
	is.NoErr(err)
	is.Equal(read(14), "PRI * HTTP/2.0")
	is.Equal(string(server.rest), "\r\n\r\nSM") // from the socket already
	is.Equal(read(4), "\r\n\r\n")
	is.Equal(read(100), "SM")
	is.Equal(server.early, nil) // given back
	_, err = client.Write([]byte("ab"))
	is.NoErr(err)
	is.Equal(read(1), "a")
	is.Equal(len(server.rest), 0)
	is.Equal(read(1), "b")
	is.NoErr(client.CloseWrite())
	_, err = server.Read(make([]byte, 1))
	is.Equal(err, io.EOF)
}

// A read waits until something comes, or its deadline has passed; after that it can be read on,
// and the first read still takes all.
func TestAQuickReadWaits(t *testing.T) {
	is := is.New(t)
	server, client := quickPair(t)
	is.NoErr(server.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err := server.Read(make([]byte, 14))
	is.True(errors.Is(err, os.ErrDeadlineExceeded))
	op, ok := errors.AsType[*net.OpError](err)
	is.True(ok)
	is.Equal(op.Op, "read")
	is.NoErr(server.SetReadDeadline(time.Time{}))
	go client.Write([]byte("hello")) // before the read, or while it waits
	p := make([]byte, 2)
	n, err := server.Read(p)
	is.NoErr(err)
	is.Equal(string(p[:n]), "he")
	is.Equal(string(server.rest), "llo")
}

// A write waits for its client to take all of it.
func TestAQuickWriteWaits(t *testing.T) {
	is := is.New(t)
	server, client := quickPair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB, more than the sockets have room for
	wrote := make(chan error)
	go func() {
		n, err := server.Write(sent)
		if err == nil && n < len(sent) {
			err = io.ErrShortWrite
		}
		server.Close()
		wrote <- err
	}()
	got, err := io.ReadAll(client)
	is.NoErr(err)
	is.NoErr(<-wrote)
	is.True(bytes.Equal(got, sent))
}

// Errors are those of package net: net/http tells by them a client that left from one that sends
// nonsense.
func TestQuickErrorsAreOfPackageNet(t *testing.T) {
	is := is.New(t)
	server, client := quickPair(t)
	is.NoErr(client.SetLinger(0))
	is.NoErr(client.Close())
	_, err := server.Read(make([]byte, 14))
	op, ok := errors.AsType[*net.OpError](err)
	is.True(ok)
	is.Equal(op.Op, "read")
	is.True(errors.Is(err, syscall.ECONNRESET))
	_, err = server.Write([]byte("too late"))
	op, ok = errors.AsType[*net.OpError](err)
	is.True(ok)
	is.Equal(op.Op, "write")
	is.True(errors.Is(err, syscall.EPIPE))
	is.NoErr(server.Close())
	for _, call := range []func([]byte) (int, error){server.Read, server.Write} {
		_, err = call(make([]byte, 1))
		is.True(errors.Is(err, net.ErrClosed))
	}
}
