package folder

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/testkit"
)

// descriptors are all that this process may have.
type descriptors struct{ files []*os.File }

// fewDescriptors lets this process have a few more than it has, until the test ends.
func fewDescriptors(t *testing.T) *descriptors {
	t.Helper()
	is := is.New(t)
	var before syscall.Rlimit
	is.NoErr(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	now, err := os.ReadDir("/proc/self/fd")
	is.NoErr(err)
	highest := 0
	for _, entry := range now {
		number, err := strconv.Atoi(entry.Name())
		is.NoErr(err)
		highest = max(highest, number)
	}
	is.NoErr(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(highest) + 32, Max: before.Max}))
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
	return &descriptors{}
}

// leaveOne takes all descriptors but one.
func (d *descriptors) leaveOne() {
	for {
		file, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		d.files = append(d.files, file)
	}
	last := len(d.files) - 1
	d.files[last].Close()
	d.files = d.files[:last]
}

func (d *descriptors) giveBack() {
	for _, file := range d.files {
		file.Close()
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
	d := fewDescriptors(t)
	testkit.Eventually(t, func() bool { // others may take the one that is left, or give one back
		d.leaveOne()
		Taken(cfg.Dir) // who comes then is not let in
		return strings.Contains(logs.String(), "too many open files")
	})
	d.giveBack()
	is.NoErr(visit(t, cfg.Dir).Flush())
}
