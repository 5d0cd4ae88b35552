package testkit

import (
	"runtime"
	"strings"
	"time"
)

// WaitsIn says whether a goroutine waits for a lock in a function.
func WaitsIn(function string) bool {
	stacks := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(stack, function) && (strings.Contains(stack, "sync.(*Mutex).Lock") || strings.Contains(stack, "sync.runtime_SemacquireRWMutexR")) {
			return true
		}
	}
	return false
}

// InTime says whether something is done, rather than waiting for a lock that is held.
func InTime(do func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
		return true
	case <-time.After(time.Minute):
		return false
	}
}
