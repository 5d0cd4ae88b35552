// Package testkit is what tests of any package need and the standard library lacks: it knows
// nothing of the hub. [Eventually] and [Comes] wait for a state, [Buffer] is a log to be read meanwhile,
// [ByItself] and [LiveHeap] weigh memory, [WaitsIn] and [InTime] tell of locks, [Main] finds
// goroutines that are left behind, [MostlyWaits] lets more tests wait at once,
// [WriteCertificate] makes a certificate for localhost.
package testkit

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"
)

// MostlyWaits is said by TestMain, before Main, of a package whose tests mostly wait: so
// many of them run at once, unless there are more processors or -parallel says how many.
func MostlyWaits(together int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", fmt.Sprint(max(together, runtime.GOMAXPROCS(0))))
	}
}

// Main runs a package's tests, then clean if it is not nil, and fails a run that leaves
// goroutines behind. Memory is collected as rarely as in a hub, unless GOGC says how often:
// under the race detector collections are up to a fifth of what tests cost.
func Main(m *testing.M, clean func()) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if clean != nil {
		clean()
	}
	if code == 0 && !settled(before) {
		fmt.Fprintf(os.Stderr, "goroutines left behind: %d, %d at the start\n", runtime.NumGoroutine(), before)
		pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		code = 1
	}
	os.Exit(code)
}

// settled waits a minute at most for the goroutines to be as few as before.
func settled(before int) bool {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for runtime.NumGoroutine() > before+1 { // os/signal's, once it was used, stays
		select {
		case <-ticker.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// Eventually waits until something is true, for a minute at most.
func Eventually(t testing.TB, come func() bool) {
	t.Helper()
	if !Comes(come) {
		t.Fatal("it does not come")
	}
}

// Comes waits for a minute at most, and says whether something has become true. It asks every 5 ms
// at first, and the longer it has waited the more seldom, since asking costs whoever is asked.
func Comes(come func() bool) bool {
	for begun := time.Now(); !come(); {
		waited := time.Since(begun)
		if waited > time.Minute {
			return false
		}
		time.Sleep(min(max(waited/20, 5*time.Millisecond), 100*time.Millisecond))
	}
	return true
}

// Answer asks again, for a minute at most, while an error says that a busy machine was late.
func Answer[T any](t testing.TB, late func(error) bool, ask func() (T, error)) (answer T) {
	t.Helper()
	var err error
	Comes(func() bool {
		answer, err = ask()
		return !late(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// Buffer takes what is written, and may be read meanwhile. The zero value is empty.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *Buffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is all that was written.
func (s *Buffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// QuickEnd is of the environment of a program, which would sleep for a second before it ends
// if it has the race detector.
const QuickEnd = "GORACE=atexit_sleep_ms=10"

// ByItself runs a test in a process of its own, where nobody else's memory comes and goes,
// and says whether this is that process. What the race detector keeps is not weighed.
func ByItself(t *testing.T) bool {
	t.Helper()
	if RaceDetector {
		t.Skip("it weighs memory, which is to be the hub's alone: .ci/run has it without the race detector")
	}
	const mark = "REALTIMEHUB_TEST_BY_ITSELF"
	if os.Getenv(mark) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprint("-test.short=", testing.Short()))
	cmd.Env = append(os.Environ(), mark+"=1", QuickEnd)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// LiveHeap is how many bytes are in use.
func LiveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Weighs fails a test where what is kept, since so much was in use before, takes more memory
// than is counted, by a fifth.
func Weighs(t testing.TB, before, counted int64) {
	t.Helper()
	heap := LiveHeap() - before
	t.Logf("heap %d, counted %d: %.2f", heap, counted, float64(heap)/float64(counted))
	if heap > counted*6/5 {
		t.Errorf("%d bytes are in use, and %d counted", heap, counted)
	}
}

// Text is a name of its own, as one is that came with a request: so many bytes and a few
// more.
func Text(random *rand.Rand, most int) string {
	return strings.Repeat("x", random.IntN(most)) + fmt.Sprintf("%x", random.Uint64())
}

// Agrees fails a test where what is counted is not what is in memory: not more than a fifth
// too little, and not twice as much.
func Agrees(t testing.TB, when string, heap, counted int64) {
	t.Helper()
	t.Logf("%s: %d KB in memory, counted as %d KB", when, heap>>10, counted>>10)
	if float64(heap) > 1.2*float64(counted)+64<<10 || float64(counted) > 2*float64(heap)+1<<20 {
		t.Error("what is counted is not what is in memory")
	}
}
