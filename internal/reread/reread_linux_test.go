package reread

import (
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/matryer/is"
)

// While files cannot be read, as of a disk that does not answer, everybody but who reads them goes
// on with what was read last.
func TestAFileThatHangsHoldsUpNobodyElse(t *testing.T) {
	is := is.New(t)
	path := filepath.Join(t.TempDir(), "file")
	is.NoErr(os.WriteFile(path, []byte("old"), 0o600))
	reads := make(chan struct{}, 2)
	f, err := Open("file", slog.New(slog.DiscardHandler), func() (string, error) {
		reads <- struct{}{}
		text, err := os.ReadFile(path)
		return string(text), err
	}, path)
	is.NoErr(err)
	<-reads
	is.NoErr(os.Remove(path))
	is.NoErr(syscall.Mkfifo(path, 0o600)) // who reads it waits for who writes it
	get := func() <-chan string {
		got := make(chan string, 1)
		go func() { got <- f.Get() }()
		return got
	}
	hangs := get()
	<-reads
	var other string
	select {
	case other = <-get():
	case <-time.After(20 * time.Second):
	}
	is.NoErr(os.WriteFile(path, []byte("new"), 0o600))
	is.Equal(other, "old")
	is.Equal(<-hangs, "new")
}
