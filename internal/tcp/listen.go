package tcp

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Limits of a connection, set on the listener and inherited.
//
// Linux takes an idle peer for vanished when nothing came from it for UserTimeout and
// the last probe was not answered; TCP_KEEPCNT does not count beside it. So probes
// are many before that: five at least, a second
// apart, and an outage of four seconds ends no stream. A write that is on its way
// when UserTimeout is over puts the end off, by UserTimeout again: hence not longer.
const (
	UserTimeout  = 12 * time.Second // nothing acknowledged for so long: the peer has vanished
	keepIdle     = 7 * time.Second  // a silence of so long, or up to keepSpread seconds less, is probed
	keepSpread   = 4
	keepInterval = time.Second
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
