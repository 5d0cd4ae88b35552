//go:build unix

package reserve

import (
	"math"
	"syscall"
)

// limit is how many descriptors the process may have, 0 where it is not known. Go has
// raised it as far as it may when the process started.
func limit() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(uint64(l.Cur), math.MaxInt32))
}
