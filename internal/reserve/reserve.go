// Package reserve keeps some of the descriptors that the process may have for requests
// that are over soon. A stream holds one for as long as it lasts: without a reserve
// streams would take all, and a health check could not even connect.
//
// The system always gives out the lowest number that is free (POSIX.1-2024, section
// 2.6): so whoever gets a high one knows that all below it are taken.
package reserve

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// How many descriptors are kept: a part of all, within bounds.
const (
	part  = 16
	least = 32
	most  = 1024
)

// reserve is the last of the descriptors; the zero value keeps none.
type reserve struct {
	from int // the first that is kept; 0: none
	own  int // one that is ours, to be duplicated
	kept int // how many are
}

// process is this process's. Go has raised its limit as far as it may at the start.
var process = sync.OnceValue(func() reserve {
	all := limit()
	own, ok := spare()
	if !ok || all == 0 {
		return reserve{}
	}
	kept := min(max(all/part, least), most, all/2)
	return reserve{all - kept, own, kept}
})

// Outside is how many descriptors there are beside the reserve; 0 where it is not known.
func Outside() int { return process().from }

// Kept is how many descriptors are of the reserve.
func Kept() int { return process().kept }

// Has says whether a connection is of the reserve.
func Has(c net.Conn) bool { return process().has(c) }

func (r reserve) has(c net.Conn) bool { return r.from > 0 && descriptor(c) >= r.from }

// Begun says that no descriptor is free but those of the reserve.
func Begun() bool { return process().begun() }

// begun asks the dear question, which takes a descriptor and gives it back, only where the last
// one outside the reserve is in use.
func (r reserve) begun() bool { return r.from > 0 && inUse(r.from-1) && lowest(r.own) >= r.from }

type key struct{}

// ConnContext is for [http.Server].ConnContext: it notes which connections are of the
// reserve.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return process().connContext(ctx, c)
}

func (r reserve) connContext(ctx context.Context, c net.Conn) context.Context {
	if r.has(c) {
		return context.WithValue(ctx, key{}, true)
	}
	return ctx
}

// Holds says that a request came on a connection of the reserve, which is to be over
// soon.
func Holds(ctx context.Context) bool { return ctx.Value(key{}) != nil }

// descriptor is a connection's, or -1 where it has none.
func descriptor(c net.Conn) int {
	for { // TLS, on what a proxy passes on
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = outer.NetConn()
	}
	n := -1
	if socket, ok := c.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { n = int(fd) })
		}
	}
	return n
}
