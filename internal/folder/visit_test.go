package folder

import (
	"errors"
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

// visit connects as another process does.
func visit(t testing.TB, dir string) *nats.Conn {
	t.Helper()
	way, err := Visit(dir)
	if err != nil {
		t.Fatal(err)
	}
	return natstest.Connect(t, "", way, nats.NoReconnect())
}

// Other processes reach a server through the folder while it runs, and no longer. The server
// asks them for what is in the folder.
func TestDoor(t *testing.T) {
	is := is.New(t)
	cfg := configOf(t.TempDir())
	_, err := Visit(cfg.Dir)
	is.True(errors.Is(err, os.ErrNotExist)) // it is of nobody yet
	is.True(!Taken(cfg.Dir))
	f := open(t, cfg)
	is.True(Taken(cfg.Dir))
	_, err = connect(t, f).AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
	is.NoErr(err)

	visits := []*nats.Conn{visit(t, cfg.Dir), visit(t, cfg.Dir)}
	for _, nc := range visits {
		js, err := nc.JetStream()
		is.NoErr(err)
		_, err = js.Publish("kept", make([]byte, 1<<20))
		is.NoErr(err)
	}
	is.Equal(messages(t, connect(t, f)), uint64(2))
	_, err = nats.Connect("", inside(visitor(filepath.Join(cfg.Dir, doorName)), "guessed"), nats.NoReconnect())
	is.True(err != nil) // the right word was taken

	visits[0].Close() // who leaves takes nobody else along
	is.NoErr(visits[1].FlushTimeout(time.Minute))
	f.Close()
	testkit.Eventually(t, visits[1].IsClosed)
	is.True(!Taken(cfg.Dir))
	way, err := Visit(cfg.Dir)
	is.NoErr(err)
	_, err = nats.Connect("", way, nats.NoReconnect())
	is.True(err != nil)
}

// Where a folder's path is too long for a socket the hub runs all the same, and says that it
// cannot be backed up meanwhile.
func TestDoorThatCannotBe(t *testing.T) {
	is := is.New(t)
	cfg := configOf(filepath.Join(t.TempDir(), strings.Repeat("long", 40)))
	var logs testkit.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	f := open(t, cfg)
	is.True(strings.Contains(logs.String(), "the folder cannot be backed up while this hub runs"))
	is.True(strings.Contains(logs.String(), cfg.Dir))
	_, err := connect(t, f).AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
	is.NoErr(err)
	is.True(!Taken(cfg.Dir))
	_, err = Open(cfg)
	is.True(errors.Is(err, ErrTaken))
	f.Close()
	open(t, cfg).Close()
}
