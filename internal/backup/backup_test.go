package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(4)
	testkit.Main(m, nil)
}

// From a folder that nobody has open, or a hub has, all goes into new folders, and to three
// NATS servers and back. Only who made the file can read it.
func TestBackup(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	files := t.TempDir()
	at := func(name string) string { return filepath.Join(files, name) }
	save := func(p place, file string) {
		t.Helper()
		said, err := p.command(t, "backup", at(file))
		is.NoErr(err)
		is.True(strings.HasPrefix(said, "backup of "+at(file)+": ") && strings.Contains(said, " records (events, memberships "))
		info, err := os.Stat(at(file))
		is.NoErr(err)
		is.Equal(info.Mode().Perm(), fs.FileMode(0o600))
	}
	load := func(p place, file string) {
		t.Helper()
		said, err := p.command(t, "restore", at(file))
		is.NoErr(err)
		is.True(strings.HasPrefix(said, "restore of "+at(file)+": "))
		is.Equal(p.streamsOf(t), three(p.replicas))
		p.hub(t, func(b *broker.Broker) { whole(t, b, p.servers == nil) })
	}
	first, second, third, servers := inFolder(t), inFolder(t), inFolder(t), onServers(t, 3)
	first.hub(t, func(b *broker.Broker) {
		fill(t, b)
		save(first, "while it is open")
	})
	load(second, "while it is open")
	save(first, "closed")
	first.hub(t, func(b *broker.Broker) { whole(t, b, true) }) // as it was
	load(servers, "closed")
	save(servers, "of servers")
	load(third, "of servers")
	left, err := os.ReadDir(files)
	is.NoErr(err)
	is.Equal(len(left), 3)
}

// Where a hub runs that has nothing yet, it has what was restored.
func TestRestoreWhileAHubRuns(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	for name, at := range map[string]place{"folder": inFolder(t), "servers": onServers(t, 3)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			at.hub(t, func(b *broker.Broker) {
				testkit.Eventually(t, func() bool { // it has been asked
					_, err := b.Log().Attach(t.Context(), tenantName(0))
					return err == nil
				})
				_, err := at.command(t, "restore", file)
				is.NoErr(err)
				testkit.Eventually(t, func() bool {
					begin, err := b.Log().Find(t.Context(), tenantName(0), "", nil)
					if err != nil {
						return false
					}
					page, err := b.Log().Read(t.Context(), tenantName(0), history.Query{After: begin.Seq, Limit: 1})
					return err == nil && len(page.Entries) == 1
				})
				whole(t, b, false)
			})
			at.hub(t, func(b *broker.Broker) { whole(t, b, at.servers == nil) })
		})
	}
}

// Where events are kept a restore changes nothing.
func TestRestoreReplacesNothing(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	for name, at := range map[string]place{"folder": inFolder(t), "servers": onServers(t, 1)} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at.hub(t, func(b *broker.Broker) { historytest.Persist(t, b.Log(), historytest.ToAll("1")) })
			refused := func() {
				t.Helper()
				_, err := at.command(t, "restore", file)
				is.True(err != nil && strings.Contains(err.Error(), "events are kept there already"))
			}
			refused()
			at.hub(t, func(b *broker.Broker) {
				refused() // also through one that runs
				page, err := historytest.Answered(func() (history.Page, error) {
					begin, err := b.Log().Find(t.Context(), "acme", "", nil)
					if err != nil {
						return history.Page{}, err
					}
					return b.Log().Read(t.Context(), "acme", history.Query{After: begin.Seq})
				})
				is.NoErr(err)
				is.Equal(historytest.Names(page.Entries), "1")
			})
			is.Equal(at.streamsOf(t), three(1))
		})
	}
}

// What cannot be done is said, and leaves nothing behind.
func TestCommandsThatCannot(t *testing.T) {
	t.Parallel()
	good := backedUp(t)
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	archive := func(name, entry, text string) string {
		var to bytes.Buffer
		tw := tar.NewWriter(&to)
		if err := errors.Join(put(tw, entry, []byte(text)), put(tw, endName, nil), tw.Close()); err != nil {
			t.Fatal(err)
		}
		return write(name, to.Bytes())
	}
	missing := filepath.Join(dir, "missing")
	for name, test := range map[string]struct {
		command, file, setting, says string
	}{
		"no file":         {"restore", missing, "", "no such file"},
		"empty":           {"restore", write("empty", nil), "", "the file is no backup of a hub"},
		"text":            {"restore", write("text", []byte("hello")), "", "the file is no backup of a hub"},
		"another archive": {"restore", archive("tar", "hello.txt", "{}"), "", "the file is no backup of a hub"},
		"newer":           {"restore", archive("newer", aboutName, `{"format":2,"prefix":"realtime"}`), "", "the backup has format 2, and this program reads format 1"},
		"another prefix":  {"restore", good, "REALTIME_NATS_PREFIX=other", "the backup is of hubs with REALTIME_NATS_PREFIX=realtime, and it is other here"},
		"nowhere to":      {"restore", good, "REALTIME_DATA=", "neither REALTIME_DATA nor REALTIME_NATS_URL is set"},
		"a wrong setting": {"restore", good, "REALTIME_SYNC=0", "REALTIME_SYNC "},
		"half of peers'":  {"backup", missing, "REALTIME_PEERS=a:1,b:1,c:1", "\nbackup takes all of the hub's settings, or REALTIME_DATA or REALTIME_NATS_URL without the others"},
		"no folder":       {"backup", missing, "", "REALTIME_DATA: "},
		"nowhere from":    {"backup", missing, "REALTIME_DATA=", "neither REALTIME_DATA nor REALTIME_NATS_URL is set"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			at := inFolder(t)
			_, err := at.command(t, test.command, test.file, test.setting)
			is.True(err != nil)
			is.True(strings.Contains(err.Error(), test.says))
			for _, path := range []string{at.dir, missing} {
				_, err := os.Stat(path)
				is.True(errors.Is(err, fs.ErrNotExist))
			}
		})
	}
	is := is.New(t)
	at := inFolder(t)
	at.hub(t, func(*broker.Broker) {})
	_, err := at.command(t, "backup", missing, "REALTIME_NATS_PREFIX=other")
	is.True(errors.Is(err, errNothing))
	_, err = at.command(t, "backup", filepath.Join(missing, "file"))
	is.True(errors.Is(err, fs.ErrNotExist))
	is.True(Command(t.Context(), "backup", nil, at.settings, io.Discard) != nil) // a file has to be named
	left, err := os.ReadDir(dir)
	is.NoErr(err)
	is.Equal(len(left), 4) // those that were written above
}
