package natstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports that tests listen on are below those that systems give to whoever connects, or somebody
// would have one before it is used. The tests of several packages run beside each other: so each
// process takes slots of them, by listening on a slot's first port until it ends.
const (
	firstPort    = 10_000
	slots        = 200
	portsPerSlot = 100
)

var ports struct {
	mu sync.Mutex
	// Guarded by mu.
	held      []net.Listener // on the first ports of this process's slots
	next, end int            // of the newest slot, what has not been given away
}

// FreePort is a port on loopback that nobody listens on, another one each time.
func FreePort(t testing.TB) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for {
		if ports.next == ports.end && !takeSlot() {
			t.Fatal("no port is free")
		}
		port := ports.next
		ports.next++
		if l, err := listen(port); err == nil {
			l.Close()
			return port
		}
	}
}

// takeSlot takes a slot that no process has. ports.mu is held.
func takeSlot() bool {
	for _, slot := range rand.Perm(slots) {
		first := firstPort + slot*portsPerSlot
		if l, err := listen(first); err == nil {
			ports.held = append(ports.held, l)
			ports.next, ports.end = first+1, first+portsPerSlot
			return true
		}
	}
	return false
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
}
