package folder

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// What a killed process had in hand is taken away by the next, whatever the folder is called; what
// is not a hub's stays.
func TestWhatIsLeftIsTakenAway(t *testing.T) {
	is := is.New(t)
	dir := filepath.Join(t.TempDir(), "data[1]")
	is.NoErr(os.Mkdir(dir, 0o700))
	for _, name := range []string{".room-123", ".new-456", ".else"} {
		is.NoErr(os.WriteFile(filepath.Join(dir, name), make([]byte, 10), 0o600))
	}
	f, err := Open(Config{Dir: dir, Sync: time.Second, Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	defer f.Close()
	left, err := fs.Glob(os.DirFS(dir), ".*")
	is.NoErr(err)
	is.Equal(left, []string{".else"})
}

// A hub that has stopped is no fault of the folder of another.
func TestAnEndOfAnotherIsNoFault(t *testing.T) {
	is := is.New(t)
	level, _, _ := translate(slog.LevelError, "127.0.0.1:26222 - rid:22 - Error flushing: writev tcp 127.0.0.1:34724->127.0.0.1:26222: writev: broken pipe")
	is.Equal(level, slog.LevelDebug)
}

// A write that fails is told of once, in the hub's words, whatever the server says of it.
func TestAWriteThatFailsIsToldOfOnce(t *testing.T) {
	is := is.New(t)
	var logs strings.Builder
	l := newLogger(slog.New(slog.NewTextHandler(&logs, nil)))
	const why = "write data/jetstream/1.blk: no space left on device"
	for _, text := range []string{
		"Filestore [realtime_journal] Critical write error: " + why,
		"JetStream failed to store a msg on stream '$G > realtime_journal': " + why,
		"JetStream stream '$G > realtime_journal' critical write error: " + why,
	} {
		l.Errorf("%s", text)
	}
	is.Equal(strings.Count(logs.String(), "\n"), 1)
	is.True(strings.Contains(logs.String(), `msg="the folder cannot be written" err="`+why))
	is.True(l.gaveUp.Load())
}

// A hub that does not run yet is no fault while all may be starting; later on it is.
func TestAHubThatStartsLaterIsNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs strings.Builder
		l := newLogger(slog.New(slog.NewTextHandler(&logs, nil)))
		const away = "Error trying to connect to route (attempt 1): dial tcp 127.0.0.1:6222: connect: connection refused"
		l.Errorf(away)
		is.True(strings.Contains(logs.String(), `level=INFO msg="another hub cannot be reached" err="dial tcp 127.0.0.1:6222`))
		is.True(!strings.Contains(logs.String(), "level=WARN"))
		time.Sleep(tellEvery)
		l.Errorf(away)
		is.True(strings.Contains(logs.String(), `level=WARN msg="another hub cannot be reached"`))
	})
}
