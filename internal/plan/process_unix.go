//go:build darwin || freebsd || linux || netbsd

package plan

import (
	"math"
	"syscall"
)

// ofProcess is how much memory the process may have (getrlimit(2)).
func ofProcess() int64 {
	least := uint64(math.MaxInt64)
	for _, resource := range []int{syscall.RLIMIT_DATA, syscall.RLIMIT_AS} {
		var l syscall.Rlimit
		if syscall.Getrlimit(resource, &l) == nil {
			least = min(least, uint64(l.Cur))
		}
	}
	return int64(least)
}
