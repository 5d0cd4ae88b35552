package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker"
)

// counted is a reader that says how much was read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// entriesOf are where a backup's entries begin, by the name of each; the last is its end.
func entriesOf(t *testing.T, text []byte) (names []string, begins, sizes []int) {
	t.Helper()
	from := &counted{Reader: bytes.NewReader(text)}
	archive := tar.NewReader(from)
	for {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names, begins, sizes
		}
		if err != nil {
			t.Fatal(err)
		}
		names, begins, sizes = append(names, entry.Name), append(begins, from.n-512), append(sizes, int(entry.Size)) // the head is a block of tar's
	}
}

// A file that ends too soon, wherever, is refused before anything is done with it.
func TestRestoreOfATornFile(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	text, err := os.ReadFile(backedUp(t))
	is.NoErr(err)
	names, begins, _ := entriesOf(t, text)
	is.Equal(names[0], aboutName)
	is.Equal(names[len(names)-1], endName)
	is.True(slices.Contains(names, prefix+"_journal/3")) // which has several pieces
	at := inFolder(t)
	torn := filepath.Join(t.TempDir(), "torn")
	for i, name := range names[:len(names)-1] {
		for where, cut := range map[string]int{
			"in its head": begins[i] + 100, "behind its head": begins[i] + 512, "in it": (begins[i] + 512 + begins[i+1]) / 2,
			"a byte before its end": begins[i+1] - 1, "behind it": begins[i+1], "in the head behind it": begins[i+1] + 511,
		} {
			is.NoErr(os.WriteFile(torn, text[:cut], 0o600))
			_, err := at.command(t, "restore", torn)
			want := "the file is no whole backup: its end is missing; nothing that it has was taken"
			if cut < 512 {
				want = "the file is no backup of a hub"
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v", name, where, err)
			}
			_, err = os.Stat(at.dir)
			is.True(errors.Is(err, fs.ErrNotExist))
		}
	}
	is.NoErr(os.WriteFile(torn, text, 0o600))
	_, err = at.command(t, "restore", torn)
	is.NoErr(err)
}

// breaking ends a context once so much was read.
type breaking struct {
	io.Reader
	left  int
	broke context.CancelFunc
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		b.broke()
	}
	return b.Reader.Read(p)
}

// A restore that is broken off, or whose file is found bad on the way, can be repeated: what
// was there of it is gone.
func TestRestoreThatIsBrokenOff(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(backedUp(t))
	is.New(t).NoErr(err)
	names, begins, sizes := entriesOf(t, text)
	for name, at := range map[string]place{"folder": inFolder(t), "servers": onServers(t, 1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits until its server has given up what was broken off
			is := is.New(t)
			at.ask(t, func(nc *nats.Conn) {
				for i, name := range names[:len(names)-1] {
					for _, middle := range []int{begins[i] + 512, (begins[i] + 512 + begins[i+1]) / 2} {
						ctx, cancel := context.WithCancel(t.Context())
						err := errUnfinished
						for errors.Is(err, errUnfinished) { // of the one before
							_, err = Restore(ctx, nc, prefix, at.replicas, &breaking{bytes.NewReader(text), middle, cancel})
						}
						if !errors.Is(err, context.Canceled) {
							t.Fatalf("%s: %v", name, err)
						}
						if strings.HasSuffix(name, "/1") {
							bad := slices.Clone(text)
							bad[min(middle, begins[i]+512+sizes[i]/2)] ^= 0xff // an entry is filled up to a whole block
							_, err = Restore(t.Context(), nc, prefix, at.replicas, bytes.NewReader(bad))
							is.True(err != nil)
						}
						cancel()
					}
				}
			})
			is.Equal(len(at.streamsOf(t)), 0) // nothing is left, nor the mark of a restore
			file := filepath.Join(t.TempDir(), "file")
			is.NoErr(os.WriteFile(file, text, 0o600))
			_, err := at.command(t, "restore", file)
			is.NoErr(err)
			is.Equal(at.streamsOf(t), three(1))
			at.hub(t, func(b *broker.Broker) { whole(t, b, at.servers == nil) })
		})
	}
}

// A backup that the server breaks off leaves no file, and one of before as it was.
func TestBackupThatIsBrokenOff(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	at := inFolder(t)
	at.hub(t, func(b *broker.Broker) { fill(t, b) })
	file := filepath.Join(t.TempDir(), "file")
	for _, before := range []string{"", "an older one"} {
		if before != "" {
			is.NoErr(os.WriteFile(file, []byte(before), 0o600))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		is.True(errors.Is(Command(ctx, "backup", []string{file}, at.settings, io.Discard), context.Canceled))
		left, err := os.ReadDir(filepath.Dir(file))
		is.NoErr(err)
		text, _ := os.ReadFile(file)
		is.Equal(fmt.Sprint(len(left), string(text)), fmt.Sprint(min(len(before), 1), before))
	}
}
