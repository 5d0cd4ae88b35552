package reread

import (
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// rereadEvery is how often at most files are looked at.
const rereadEvery = time.Second

// File are files that are read again when they change, so that what is renewed needs
// no restart. While they cannot be read, what was read last serves.
type File[T any] struct {
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

// Open reads files for the first time; an error is read's.
func Open[T any](what string, logger *slog.Logger, read func() (T, error), paths ...string) (*File[T], error) {
	w := &File[T]{what: what, paths: paths, read: read, logger: logger}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w, w.loadLocked()
}

func (w *File[T]) loadLocked() error {
	version := w.stat() // before they are read: what changes meanwhile is seen next time
	value, err := w.read()
	if err == nil {
		w.value, w.version = value, version
	}
	return err
}

func (w *File[T]) stat() (version []os.FileInfo) {
	for _, name := range w.paths {
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

// Get is what the files hold.
func (w *File[T]) Get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.looked) >= rereadEvery {
		w.looked = now
		if !slices.EqualFunc(w.stat(), w.version, sameVersion) {
			w.againLocked()
		}
	}
	return w.value
}

// Reload reads the files, changed or not.
func (w *File[T]) Reload() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = "" // whoever asks wants to be told
	w.againLocked()
}

func (w *File[T]) againLocked() {
	if err := w.loadLocked(); err == nil {
		w.failure = ""
		w.logger.Info(w.what + ": read again")
	} else if w.failure != err.Error() {
		w.failure = err.Error()
		w.logger.Warn(w.what+": not read again, the last good one serves; it is tried again", "err", err)
	}
}
