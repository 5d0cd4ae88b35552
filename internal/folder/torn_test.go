package folder

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/matryer/is"
)

// A folder is torn when the machine has stopped while it was open, until those are told who have
// to know; a process that was killed tears nothing, and neither does what is waited for.
func TestTorn(t *testing.T) {
	is := is.New(t)
	cfg := configOf(t.TempDir())
	mark := filepath.Join(cfg.Dir, bootName)
	open(t, cfg).Close()
	_, err := os.Stat(mark)
	is.True(os.IsNotExist(err)) // all was on the disk

	is.NoErr(os.WriteFile(mark, []byte(boot()), 0o600)) // as of a process that was killed
	f := open(t, cfg)
	is.Equal(f.Torn(), boot() == "") // elsewhere than on Linux this is not known
	f.Close()

	is.NoErr(os.WriteFile(mark, []byte("another start of the machine"), 0o600))
	for range 2 { // nobody was told the first time
		f = open(t, cfg)
		is.True(f.Torn())
		f.Close()
	}
	f = open(t, cfg)
	is.True(f.Torn())
	is.NoErr(f.Settle())
	is.True(!f.Torn())
	text, err := os.ReadFile(mark)
	is.NoErr(err)
	is.Equal(string(text), boot())
	f.Close()
	f = open(t, cfg)
	is.True(!f.Torn())
	f.Close()

	cfg.Sync = 0
	f = open(t, cfg)
	defer f.Close()
	_, err = os.Stat(mark)
	is.True(os.IsNotExist(err))
}

// What fails of a write says whether those before it may be lost.
func TestWhatAFailedWriteMayLose(t *testing.T) {
	for text, loses := range map[string]bool{
		"Filestore [a] Critical write error: write 1.blk: input/output error":                          true,
		"JetStream stream '$G > a' critical write error: open 1.blk: read-only file system":            true,
		"Filestore [a] Critical write error: sync 1.blk: input/output error":                           true,
		"Filestore [a] Critical write error: sync 1.blk: no space left on device":                      true,
		"JetStream failed to store a msg on stream '$G > a': write 1.blk: input/output error":          false, // what is critical is said as such
		"Filestore [a] Critical write error: write 1.blk: no space left on device":                     false,
		"JetStream consumer '$G > a > c' critical write error: write o.dat: disk quota exceeded":       false,
		"RAFT [a - S-R1F] Critical write error: open 1.blk: too many open files":                       false,
		"JetStream cluster meta group critical write error: open 1.blk: too many open files in system": false,
	} {
		l := newLogger(slog.New(slog.DiscardHandler))
		l.Errorf("%s", text)
		if l.unsynced.Load() != loses {
			t.Errorf("%s: %v", text, !loses)
		}
	}
}
