package folder

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// filesOf are a folder's files, with what is in them and who may read them.
func filesOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var text []byte
		if info.Mode().IsRegular() {
			text, err = os.ReadFile(path)
		}
		all[path] = fmt.Sprint(info.Mode(), " ", string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A hub alone does not open what several keep, nor the reverse, and what is there stays as
// it is: a server with others would throw away what they do not know.
func TestFolderIsOfOneOrOfSeveral(t *testing.T) {
	peers := func(t *testing.T) *Peers {
		addr := fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
		return &Peers{Name: "test", Listen: addr, Addrs: []string{addr, "127.0.0.1:1", "127.0.0.1:2"}}
	}
	t.Run("of one", func(t *testing.T) {
		is := is.New(t)
		cfg := configOf(t.TempDir())
		f := open(t, cfg)
		js := connect(t, f)
		_, err := js.AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
		is.NoErr(err)
		_, err = js.Publish("kept", []byte("word"))
		is.NoErr(err)
		f.Close()
		before := filesOf(t, cfg.Dir)
		cfg.Peers = peers(t)
		_, err = Open(cfg)
		is.True(err != nil && strings.Contains(err.Error(), "the folder is of a hub alone"))
		is.True(maps.Equal(filesOf(t, cfg.Dir), before))
		cfg.Peers = nil
		f = open(t, cfg)
		defer f.Close()
		is.Equal(messages(t, connect(t, f)), uint64(1))
	})
	t.Run("of several", func(t *testing.T) {
		is := is.New(t)
		cfg := configOf(t.TempDir())
		cfg.Peers = peers(t)
		open(t, cfg).Close()
		before := filesOf(t, cfg.Dir)
		cfg.Peers = nil
		_, err := Open(cfg)
		is.True(err != nil && strings.Contains(err.Error(), "the folder is part of what several hubs keep"))
		is.True(maps.Equal(filesOf(t, cfg.Dir), before))
		cfg.Peers = peers(t)
		open(t, cfg).Close()
	})
}

// holds names the folder that TestHoldsForAnother opens.
const holds = "REALTIMEHUB_TEST_HOLDS"

// TestHoldsForAnother is a second process, which has a folder open until its input ends.
func TestHoldsForAnother(t *testing.T) {
	dir := os.Getenv(holds)
	if dir == "" {
		return // started by others only
	}
	f, err := Open(configOf(dir))
	fmt.Printf("opened: %v\n", err)
	if err != nil {
		return
	}
	io.Copy(io.Discard, os.Stdin)
	f.Close()
}

// process is another process that opens a folder.
type process struct {
	*exec.Cmd
	input io.Closer
	said  string // nil, or why it could not
}

func openElsewhere(t *testing.T, dir string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], "-test.run=^TestHoldsForAnother$")}
	p.Env = append(os.Environ(), holds+"="+dir, testkit.QuickEnd)
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.input, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said, ok := strings.CutPrefix(lines.Text(), "opened: "); ok {
			p.said = said
			return p
		}
	}
	t.Fatal("the other process says nothing")
	return nil
}

// Two processes do not have one folder: the second is told which one has it. It is free once
// that one has ended, also where it was killed.
func TestFolderIsTakenByAnotherProcess(t *testing.T) {
	is := is.New(t)
	host, err := os.Hostname()
	is.NoErr(err)
	cfg := configOf(t.TempDir())

	f := open(t, cfg)
	is.Equal(openElsewhere(t, cfg.Dir).said, fmt.Sprintf("%v: process %d on %s", ErrTaken, os.Getpid(), host))
	f.Close()

	other := openElsewhere(t, cfg.Dir)
	is.Equal(other.said, "<nil>")
	_, err = Open(cfg)
	is.True(errors.Is(err, ErrTaken))
	is.True(strings.HasSuffix(err.Error(), fmt.Sprintf(": process %d on %s", other.Process.Pid, host)))
	is.True(Taken(cfg.Dir))
	is.NoErr(other.Process.Kill())
	other.Wait()
	is.True(!Taken(cfg.Dir)) // its socket is there still

	f = open(t, cfg)
	is.True(Taken(cfg.Dir))
	f.Close()
	other = openElsewhere(t, cfg.Dir)
	is.Equal(other.said, "<nil>")
	is.NoErr(other.input.Close())
	is.NoErr(other.Wait())
	open(t, cfg).Close()
}
