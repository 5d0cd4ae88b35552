package folder

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

func configOf(dir string) Config {
	return Config{Dir: dir, Sync: time.Second, Logger: slog.New(slog.DiscardHandler)}
}

func open(t testing.TB, cfg Config) *Folder {
	t.Helper()
	f, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// soon has each call wait for a second: it is repeated, or the disk is to refuse.
const soon = nats.MaxWait(time.Second)

// connect is a client's way to what the folder keeps.
func connect(t testing.TB, f *Folder, options ...nats.JSOpt) nats.JetStreamContext {
	t.Helper()
	nc := natstest.Connect(t, "", f.Connect(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	js, err := nc.JetStream(append([]nats.JSOpt{nats.MaxWait(time.Minute)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func messages(t testing.TB, js nats.JetStreamContext) uint64 {
	t.Helper()
	var info *nats.StreamInfo
	var err error
	testkit.Comes(func() bool { info, err = js.StreamInfo("kept"); return err == nil })
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Msgs
}

// What was acknowledged is there when the folder is opened again, whose it is nobody else's
// to read, and no port is open.
func TestFolderKeeps(t *testing.T) {
	is := is.New(t)
	cfg := configOf(filepath.Join(t.TempDir(), "made", "by it"))
	f := open(t, cfg)
	info, err := os.Stat(cfg.Dir)
	is.NoErr(err)
	is.Equal(info.Mode().Perm(), fs.FileMode(0o700))
	is.Equal(f.server.server.Addr(), nil)
	js := connect(t, f)
	_, err = js.AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
	is.NoErr(err)
	for range 100 {
		_, err := js.Publish("kept", []byte("word"))
		is.NoErr(err)
	}
	f.Close()
	is.NoErr(os.Rename(cfg.Dir, cfg.Dir+", moved"))
	cfg.Dir += ", moved"
	f = open(t, cfg)
	defer f.Close()
	is.Equal(messages(t, connect(t, f)), uint64(100))
}

// A folder belongs to one process, which a second one is told.
func TestFolderIsTaken(t *testing.T) {
	is := is.New(t)
	cfg := configOf(t.TempDir())
	f := open(t, cfg)
	_, err := Open(cfg)
	is.True(errors.Is(err, ErrTaken))
	is.True(strings.Contains(err.Error(), "process "))
	f.Close()
	open(t, cfg).Close()
}

// What a hub of this version cannot read is refused, and stays as it is.
func TestFolderOfAnother(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"of another version": {map[string]string{aboutName: `{"version":2,"id":"x"}`}, "the folder is of version 2, and this hub reads version 1"},
		"torn":               {map[string]string{aboutName: `{"vers`}, aboutName + " cannot be read"},
		"of nobody":          {map[string]string{storeName + "/x": "y"}, "this is no folder of a hub"},
		"of other work":      {map[string]string{"notes.txt": "y"}, "notes.txt is there and " + aboutName + " is not: this is no folder of a hub"},
		"a file":             {map[string]string{"": "x"}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			dir := filepath.Join(t.TempDir(), "data")
			for name, text := range tc.files {
				is.NoErr(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
				is.NoErr(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
			}
			_, err := Open(configOf(dir))
			is.True(err != nil)
			is.True(strings.Contains(err.Error(), tc.want))
			for name, text := range tc.files {
				got, err := os.ReadFile(filepath.Join(dir, name))
				is.NoErr(err)
				is.Equal(string(got), text)
			}
		})
	}
}
