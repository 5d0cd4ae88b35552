// Package reserve keeps some of the descriptors that a process may have for requests
// that are over soon. A stream holds its connection's for as long as it lasts: without
// a reserve streams would take all, and a health check could not even connect.
package reserve

import (
	"context"
	"net"
	"syscall"
)

// How many descriptors are kept: a part of all, within bounds.
const (
	part  = 16
	least = 32
	most  = 1024
)

// Reserve is the last of a process's descriptors. The zero value keeps none.
type Reserve struct {
	from int // the first that is kept; 0: none
}

// New keeps a reserve of what the system allows the process, where it says so.
func New() Reserve {
	all := limit()
	kept := min(max(all/part, least), most, all/2)
	return Reserve{all - kept}
}

type scarce struct{}

// ConnContext is for [http.Server].ConnContext: it notes which connections are of the
// reserve. The system always gives out the lowest number that is free (POSIX, section
// 2.6): so a connection with a high one has come when all below it were taken.
func (r Reserve) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if r.from > 0 && descriptor(c) >= r.from {
		return context.WithValue(ctx, scarce{}, true)
	}
	return ctx
}

// Scarce says that a request came on a connection of the reserve, which is to be over soon.
func Scarce(ctx context.Context) bool { return ctx.Value(scarce{}) != nil }

// descriptor is a connection's, or -1 where it has none.
func descriptor(c net.Conn) int {
	if secure, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secure.NetConn()
	}
	n := -1
	if socket, ok := c.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { n = int(fd) })
		}
	}
	return n
}
