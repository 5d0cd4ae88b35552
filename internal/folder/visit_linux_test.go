package folder

import (
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// leaveOneDescriptor opens files until this process may open one more.
func leaveOneDescriptor(t *testing.T) (closeAll func()) {
	t.Helper()
	is := is.New(t)
	var before syscall.Rlimit
	is.NoErr(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	is.NoErr(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 256, Max: before.Max}))
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
	var files []*os.File
	for {
		file, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, file)
	}
	is.True(len(files) > 0)
	files[0].Close()
	return func() {
		for _, file := range files[1:] {
			file.Close()
		}
	}
}

// A hub that runs out of descriptors lets nobody in, which it says. Later it does.
func TestDoorThatCouldNotBeOpened(t *testing.T) {
	is := is.New(t)
	cfg := configOf(t.TempDir())
	cfg.Sync = time.Hour // which takes descriptors
	var logs testkit.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	f := open(t, cfg)
	defer f.Close()
	closeAll := leaveOneDescriptor(t)
	is.True(Taken(cfg.Dir)) // it has come, and is not let in
	testkit.Eventually(t, func() bool { return strings.Contains(logs.String(), "too many open files") })
	closeAll()
	is.NoErr(visit(t, cfg.Dir).Flush())
}
