package hubtest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"realtimehub/internal/natstest"
)

// Main runs a package's tests, removes what they built, and fails a run that leaves
// goroutines behind. TestMain calls it.
func Main(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	natstest.Clean()
	clean()
	if code == 0 && !settled(before) {
		fmt.Fprintf(os.Stderr, "goroutines left behind: %d, %d at the start\n", runtime.NumGoroutine(), before)
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		code = 1
	}
	os.Exit(code)
}

// settled waits a few seconds for the goroutines to be as few as before.
func settled(before int) bool {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(5 * time.Second)
	for runtime.NumGoroutine() > before+1 { // os/signal's, once it was used, stays
		select {
		case <-ticker.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// Eventually waits up to a minute for something that a hub does by itself.
func Eventually(t testing.TB, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("it does not come")
		}
	}
}

// Buffer is a log that is read while it is written.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
