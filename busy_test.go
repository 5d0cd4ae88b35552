package main

import (
	"runtime"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// waitsIn says whether a goroutine waits for a lock in a function.
func waitsIn(function string) bool {
	stacks := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(stack, function) && strings.Contains(stack, "sync.(*Mutex).Lock") {
			return true
		}
	}
	return false
}

// Who waits for a tenant that is busy, to forget it, keeps nobody from another.
func TestABusyTenantKeepsNobodyFromOthers(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	for _, name := range []string{"acme", "well"} {
		is.NoErr(h.SetMembers(t.Context(), name, Room{KindGroup, "g"}, []ProfileRef{{"user", "1"}}))
	}
	busy := h.tenants.find("acme")
	forgotten := make(chan struct{})
	go func() {
		h.tenants.forget("acme")
		close(forgotten)
	}()
	eventually(t, func() bool { return waitsIn(".(*tenants).forget(") })
	free := h.tenants.mu.TryRLock()
	if free {
		h.tenants.mu.RUnlock()
	}
	busy.mu.Unlock()
	<-forgotten
	is.True(free)                      // others are found meanwhile
	h.tenants.find("acme").mu.Unlock() // it is needed still
	h.tenants.find("well").mu.Unlock()
}
