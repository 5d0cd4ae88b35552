package tcp

import (
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

const tcpUserTimeout = 18 // linux/tcp.h; package syscall has no name for it

func limit(fd uintptr) error {
	for _, option := range []struct{ level, name, value int }{
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(keepIdle.Seconds())},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, int(keepInterval.Seconds())},
		{syscall.IPPROTO_TCP, tcpUserTimeout, int(UserTimeout.Milliseconds())},
		{syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer},
	} {
		if err := syscall.SetsockoptInt(int(fd), option.level, option.name, option.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// spreadProbes gives a connection its own idleness until its first probe: after a
// broadcast thousands are idle since the same moment, and their probes at once would
// overflow the queue of a network device (net.core.netdev_max_backlog, 1,000 packets),
// and all be lost.
func spreadProbes(fd uintptr) {
	idle := keepIdle - time.Duration(rand.N(keepSpread))*time.Second
	syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(idle.Seconds())) // else it is the listener's
}
