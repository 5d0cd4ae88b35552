//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package reserve

import (
	"math"
	"syscall"
)

// limit is how many descriptors the process may have, 0 where it is not known.
func limit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(uint64(l.Cur), math.MaxInt32))
}

// spare is a descriptor of our own, which nobody else closes.
func spare() (fd int, ok bool) {
	var ends [2]int
	if syscall.Pipe(ends[:]) != nil {
		return 0, false
	}
	syscall.CloseOnExec(ends[0])
	syscall.Close(ends[1])
	return ends[0], true
}

// inUse says whether a descriptor is of something.
func inUse(fd int) bool {
	var is syscall.Stat_t
	return syscall.Fstat(fd, &is) != syscall.EBADF
}

// lowest is the lowest descriptor that is free, or more than any where none is.
func lowest(own int) int {
	fd, err := syscall.Dup(own)
	if err != nil {
		return math.MaxInt
	}
	syscall.Close(fd)
	return fd
}
