package sse

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Limits of a connection, set on the listener and inherited.
const (
	userTimeout  = 12 * time.Second // data unacknowledged so long: the peer has vanished
	keepIdle     = 8 * time.Second
	keepInterval = 4 * time.Second
	keepCount    = 3
	sendBuffer   = 64 << 10 // bytes; else a client that stalls holds up to 4 MB of the kernel's
)

// Listen listens on a TCP address so that a peer that vanishes is noticed within
// 25 s, and one that stalls costs little.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // inherited, not set once more a connection
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) { err = limit(fd) }); e != nil {
				return e
			}
			return err
		},
	}
	lc.SetMultipathTCP(false) // it refuses TCP_USER_TIMEOUT, in silence
	return lc.Listen(ctx, "tcp", addr)
}
