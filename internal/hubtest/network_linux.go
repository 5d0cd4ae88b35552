package hubtest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// setns is the system call's number, for which package syscall has no name; 0
// where we do not know it.
var setns = map[string]uintptr{"amd64": 308, "arm64": 268}[runtime.GOARCH]

// Cabled makes two networks with a cable between them, each end with its address, and
// ip, which changes the network that the test is in.
func Cabled(t testing.TB, nearAddr, farAddr string) (near, far *os.File, ip func(args string)) {
	t.Helper()
	if setns == 0 {
		Lacks(t, "setns has no number here for "+runtime.GOARCH)
	}
	Needs(t, "ip")
	runtime.LockOSThread() // and never unlocked: the networks end with the thread, and the thread with the test
	ip = func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	near, far = newNetwork(t), newNetwork(t)
	ip(fmt.Sprintf("link add cable type veth peer name cable netns /proc/%d/fd/%d", os.Getpid(), near.Fd()))
	for network, addr := range map[*os.File]string{near: nearAddr, far: farAddr} {
		Enter(t, network)
		ip("link set lo up")
		ip("addr add " + addr + " dev cable")
		ip("link set cable up")
	}
	return near, far, ip
}

// newNetwork moves the thread into a network of its own.
func newNetwork(t testing.TB) *os.File {
	t.Helper()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		Lacks(t, "network namespaces are not allowed here: "+err.Error())
	}
	network, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	return network
}

// Enter moves the thread into a network: what it dials or starts is there.
func Enter(t testing.TB, network *os.File) {
	t.Helper()
	if _, _, err := syscall.RawSyscall(setns, network.Fd(), syscall.CLONE_NEWNET, 0); err != 0 {
		t.Fatal(os.NewSyscallError("setns", err))
	}
}
