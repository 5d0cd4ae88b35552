package folder

import (
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
