package folder

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// disk is a disk whose image is a file, in memory that can be used up.
type disk struct {
	memory string // a tmpfs, where the image is
	dir    string // where the disk is mounted
}

// The disk's image grows to imageSize at most, and the memory has a little more.
const imageSize = 64 << 20

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t.TempDir(), t.TempDir()}
	if err := syscall.Mount("tmpfs", d.memory, "tmpfs", 0, "size=80m"); err != nil {
		hubtest.Lacks(t, "mounting needs root")
	}
	t.Cleanup(func() { syscall.Unmount(d.memory, syscall.MNT_DETACH) })
	hubtest.Needs(t, "mkfs.ext4")
	is := is.New(t)
	file, err := os.Create(d.image())
	is.NoErr(err)
	is.NoErr(file.Truncate(imageSize))
	is.NoErr(file.Close())
	is.NoErr(exec.Command("mkfs.ext4", "-q", "-O", "^has_journal", d.image()).Run()) // with a journal it would be given up as a whole
	mountImage(t, d.image(), d.dir)
	return d
}

func (d *disk) image() string { return filepath.Join(d.memory, "image") }

func mountImage(t *testing.T, image, dir string) {
	t.Helper()
	if err := exec.Command("mount", "-o", "loop,errors=continue", image, dir).Run(); err != nil {
		hubtest.Lacks(t, "there is no loop device")
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// afterPowerCut is where the disk is mounted with what a power cut leaves on it now.
func (d *disk) afterPowerCut(t *testing.T) (dir string) {
	t.Helper()
	is := is.New(t)
	image, err := os.ReadFile(d.image())
	is.NoErr(err)
	left := filepath.Join(t.TempDir(), "left")
	is.NoErr(os.WriteFile(left, image, 0o600))
	dir = t.TempDir()
	mountImage(t, left, dir)
	return dir
}

// A hub that waits for each write does not say that all is on the disk before that is so of what
// one before it wrote, which did not wait.
func TestWhatWasNotWaitedForIsOnTheDiskOnceWritesAre(t *testing.T) {
	is := is.New(t)
	d := newDisk(t)
	cfg := configOf(filepath.Join(d.dir, "data"))
	open(t, cfg).Close()
	written := filepath.Join("data", storeName, "block") // as by a process that was killed before its next sync
	is.NoErr(os.WriteFile(filepath.Join(d.dir, written), []byte("acknowledged"), 0o600))
	is.NoErr(os.WriteFile(filepath.Join(cfg.Dir, bootName), []byte(boot()), 0o600))
	cfg.Sync = 0
	f := open(t, cfg)
	defer f.Close()
	_, err := os.Stat(filepath.Join(cfg.Dir, bootName))
	is.True(os.IsNotExist(err))
	text, err := os.ReadFile(filepath.Join(d.afterPowerCut(t), written))
	is.NoErr(err)
	is.Equal(string(text), "acknowledged")
}

// full uses the disk's memory up: what is written from now on is lost, and only a sync tells of it.
func (d *disk) full(t *testing.T) (empty func()) {
	t.Helper()
	ballast := filepath.Join(d.memory, "ballast")
	file, err := os.Create(ballast)
	for err == nil {
		_, err = file.Write(make([]byte, 64<<10))
	}
	file.Close()
	return func() { os.Remove(ballast) }
}

// What was acknowledged and could not be brought to the disk may be lost, of which the next start
// tells, though the disk takes everything again.
func TestASyncThatFailedIsToldOfByTheNextStart(t *testing.T) {
	is := is.New(t)
	d := newDisk(t)
	cfg := configOf(filepath.Join(d.dir, "data"))
	f := open(t, cfg)
	js := connect(t, f, soon)
	_, err := connect(t, f).AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
	is.NoErr(err)
	empty := d.full(t)
	for range 20 {
		js.Publish("kept", make([]byte, 256<<10))
	}
	testkit.Eventually(t, func() bool { return f.unsynced.Load() })
	empty()
	testkit.Eventually(t, func() bool { _, err := js.Publish("kept", []byte("word")); return err == nil })
	f.Close()
	f = open(t, cfg)
	is.True(f.Torn())
	is.NoErr(f.Settle())
	f.Close()
	f = open(t, cfg)
	defer f.Close()
	is.True(!f.Torn()) // it was told once
}

// A write that failed is told of by the next start, unless there was only no room, also where the
// disk did not take the mark at first. Nothing is kept until it does.
func TestAWriteThatFailedIsToldOfByTheNextStart(t *testing.T) {
	is := is.New(t)
	cfg := configOf(t.TempDir())
	mark := filepath.Join(cfg.Dir, bootName)
	f := open(t, cfg)
	marked := func() bool { text, err := os.ReadFile(mark); return err == nil && string(text) == boot() }
	is.True(marked())
	is.NoErr(os.Rename(mark, mark+".kept"))
	is.NoErr(os.Mkdir(mark, 0o700)) // which nobody can write into, as on a disk that is read-only
	f.current().logs.Errorf("Filestore [kept] Critical write error: %s", "open 1.blk: read-only file system")
	testkit.Eventually(t, func() bool { return f.unsynced.Load() && f.current() == nil })
	is.True(f.finish() != nil) // as when it is closed now
	is.NoErr(os.Remove(mark))
	is.NoErr(os.Rename(mark+".kept", mark))
	is.True(marked())
	testkit.Eventually(t, func() bool { return f.current() != nil })
	is.True(!marked())
	f.Close()
	f = open(t, cfg)
	defer f.Close()
	is.True(f.Torn())
}

// giveUp has the disk's file system be read-only, as after a fault of its own.
func (d *disk) giveUp(t *testing.T) {
	t.Helper()
	is := is.New(t)
	is.NoErr(exec.Command("mount", "-o", "remount,errors=remount-ro", d.dir).Run())
	device, err := exec.Command("findmnt", "-no", "SOURCE", d.dir).Output()
	is.NoErr(err)
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(string(device))), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("1"), 0); err != nil {
		hubtest.Lacks(t, "ext4 cannot be told to fail")
	}
}

// A file system that has given up may have lost what was acknowledged, and takes no mark. The log
// says what its operator has to do.
func TestAFileSystemThatGivesUp(t *testing.T) {
	is := is.New(t)
	d := newDisk(t)
	cfg := configOf(filepath.Join(d.dir, "data"))
	var logs testkit.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	f := open(t, cfg)
	js := connect(t, f, soon)
	_, err := connect(t, f).AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
	is.NoErr(err)
	d.giveUp(t)
	testkit.Eventually(t, func() bool { js.Publish("kept", []byte("word")); return f.current() == nil })
	f.Close()
	is.True(strings.Contains(logs.String(), "empty the folder's file open before the next start"))
	is.NoErr(syscall.Unmount(d.dir, 0))
	mountImage(t, d.image(), d.dir)
	is.NoErr(os.Truncate(filepath.Join(cfg.Dir, bootName), 0))
	f = open(t, cfg)
	defer f.Close()
	is.True(f.Torn())
}

// Whoever makes a folder, or puts a file into one, hears that its name does not come to the disk.
func TestANameThatDoesNotComeToTheDisk(t *testing.T) {
	is := is.New(t)
	d := newDisk(t)
	is.NoErr(makeDir(filepath.Join(d.dir, "one", "in another")))
	is.NoErr(os.Mkdir(filepath.Join(d.dir, "new"), 0o700))
	defer d.full(t)()
	is.True(makeDir(filepath.Join(d.dir, "new", "made")) != nil)
	is.NoErr(os.Mkdir(filepath.Join(d.dir, "newer"), 0o700))
	is.NoErr(os.WriteFile(filepath.Join(d.dir, "newer", "file"), nil, 0o600))
	is.True(SyncDir(filepath.Join(d.dir, "newer")) != nil)
}
