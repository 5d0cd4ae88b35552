package folder

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/matryer/is"
)

// What a killed process had in hand is taken away by the next; what is not a hub's stays.
func TestWhatIsLeftIsTakenAway(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	for _, name := range []string{".room-123", ".new-456", ".else"} {
		is.NoErr(os.WriteFile(filepath.Join(dir, name), make([]byte, 10), 0o600))
	}
	f, err := Open(Config{Dir: dir, Sync: time.Second, Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	defer f.Close()
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	is.NoErr(err)
	is.Equal(left, []string{filepath.Join(dir, ".else")})
}

// A hub that has stopped is no fault of the folder of another.
func TestAnEndOfAnotherIsNoFault(t *testing.T) {
	is := is.New(t)
	level, _, _ := translate(slog.LevelError, "127.0.0.1:26222 - rid:22 - Error flushing: writev tcp 127.0.0.1:34724->127.0.0.1:26222: writev: broken pipe")
	is.Equal(level, slog.LevelDebug)
}
