package reread

import (
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often at most files are looked at.
const lookEvery = time.Second

// File is what one or more files hold together. While they cannot be read it is what was
// read last.
type File[T any] struct {
	// Static.
	what   string // for the log
	paths  []string
	read   func() (T, error)
	logger *slog.Logger

	value atomic.Pointer[T]

	reading sync.Mutex // held while the disk is waited for
	// Guarded by reading.
	version []os.FileInfo // of value
	looked  time.Time
	failure string // the last one, which was logged; empty: none
}

// Open reads the files at paths for the first time, by read, whose error it returns. what
// names them in the log.
func Open[T any](what string, logger *slog.Logger, read func() (T, error), paths ...string) (*File[T], error) {
	f := &File[T]{what: what, paths: paths, read: read, logger: logger}
	f.value.Store(new(T))
	f.reading.Lock()
	defer f.reading.Unlock()
	return f, f.loadLocked()
}

func (f *File[T]) loadLocked() error {
	version := f.stat() // before they are read: what changes meanwhile is seen next time
	value, err := f.read()
	if err == nil {
		f.value.Store(&value)
		f.version = version
	}
	return err
}

func (f *File[T]) stat() (version []os.FileInfo) {
	for _, name := range f.paths {
		info, _ := os.Stat(name)
		version = append(version, info)
	}
	return version
}

func sameVersion(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// Get is what the files hold. It reads them again if they have changed, unless somebody is at that
// already.
func (f *File[T]) Get() T {
	if f.reading.TryLock() {
		defer f.reading.Unlock()
		f.lookLocked()
	}
	return *f.value.Load()
}

func (f *File[T]) lookLocked() {
	now := time.Now()
	if now.Sub(f.looked) < lookEvery {
		return
	}
	f.looked = now
	if !slices.EqualFunc(f.stat(), f.version, sameVersion) {
		f.reloadLocked()
	}
}

// Reload reads the files, whether they have changed or not. A failure is logged even if it
// was logged before.
func (f *File[T]) Reload() {
	f.reading.Lock()
	defer f.reading.Unlock()
	f.failure = ""
	f.reloadLocked()
}

func (f *File[T]) reloadLocked() {
	if err := f.loadLocked(); err == nil {
		f.failure = ""
		f.logger.Info(f.what + ": read again")
	} else if f.failure != err.Error() {
		f.failure = err.Error()
		f.logger.Warn(f.what+": could not be read again; the last good one stays in use, and the hub keeps trying", "err", err)
	}
}
