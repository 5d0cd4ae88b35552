package main

import (
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// filesEvery is how often at most files are looked at.
const filesEvery = time.Second

// files are read again when they change, so that what is renewed needs no restart.
// While they cannot be read, what was read last serves.
type files[T any] struct {
	// Static.
	what   string // for the log
	paths  []string
	read   func() (T, error)
	logger *slog.Logger

	mu sync.Mutex
	// Guarded by mu.
	value   T
	version []os.FileInfo // of value
	looked  time.Time
	failure string // the last, which the log has told; empty: none
}

// openFiles reads files for the first time; an error is read's.
func openFiles[T any](what string, logger *slog.Logger, read func() (T, error), paths ...string) (*files[T], error) {
	f := &files[T]{what: what, paths: paths, read: read, logger: logger}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f, f.loadLocked()
}

func (f *files[T]) loadLocked() error {
	version := f.stat() // before they are read: what changes meanwhile is seen next time
	value, err := f.read()
	if err == nil {
		f.value, f.version = value, version
	}
	return err
}

func (f *files[T]) stat() (version []os.FileInfo) {
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

// get is what the files hold.
func (f *files[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= filesEvery {
		f.looked = now
		if !slices.EqualFunc(f.stat(), f.version, sameVersion) {
			f.againLocked()
		}
	}
	return f.value
}

// again reads the files, changed or not.
func (f *files[T]) again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failure = "" // whoever asks wants to be told
	f.againLocked()
}

func (f *files[T]) againLocked() {
	if err := f.loadLocked(); err == nil {
		f.failure = ""
		f.logger.Info(f.what + ": read again")
	} else if f.failure != err.Error() {
		f.failure = err.Error()
		f.logger.Warn(f.what+": not read again, the last good one serves; it is tried again", "err", err)
	}
}
