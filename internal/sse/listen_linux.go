package sse

import (
	"os"
	"syscall"
)

const tcpUserTimeout = 18 // linux/tcp.h; package syscall has no name for it

func limit(fd uintptr) error {
	for _, option := range []struct{ level, name, value int }{
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(keepIdle.Seconds())},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, int(keepInterval.Seconds())},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepCount},
		{syscall.IPPROTO_TCP, tcpUserTimeout, int(userTimeout.Milliseconds())},
		{syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer},
	} {
		if err := syscall.SetsockoptInt(int(fd), option.level, option.name, option.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}
