package folder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// asAnother does something as a user who is not root and owns nothing here.
func asAnother(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		syscall.Setfsuid(65534)
		do()
	}()
	<-done
}

// A folder that cannot be written, or made, is refused with the reason, as is one that is
// somebody else's: what is in it could be read. Nothing is left in it.
func TestFolderThatMayNotBeUsed(t *testing.T) {
	if os.Getuid() != 0 {
		hubtest.Lacks(t, "becoming another user needs root")
	}
	for name, test := range map[string]struct {
		mode fs.FileMode
		dir  string
		want error
		says string
	}{
		"cannot be written":   {0o755, ".", fs.ErrPermission, "cannot be set to 0700"},
		"cannot be made":      {0o755, "data", fs.ErrPermission, "permission denied"},
		"cannot be looked at": {0o700, "data", fs.ErrPermission, "permission denied"},
		"of somebody else":    {0o777, ".", fs.ErrPermission, "cannot be set to 0700"},
		"of its own inside":   {0o777, "data", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			above, err := os.MkdirTemp("", "folder") // others may look into what it is in
			is.NoErr(err)
			defer os.RemoveAll(above)
			is.NoErr(os.Chmod(above, test.mode))
			f := &Folder{cfg: configOf(filepath.Join(above, test.dir))}
			asAnother(t, func() { err = f.take() })
			if test.want == nil {
				is.NoErr(err)
				f.lock.Close()
				return
			}
			is.True(errors.Is(err, test.want))
			is.True(strings.Contains(err.Error(), test.says))
			is.True(strings.Contains(err.Error(), f.cfg.Dir))
			left, err := os.ReadDir(above)
			is.NoErr(err)
			is.Equal(len(left), 0)
		})
	}
}

// What cannot be written at all is refused, and is as it was.
func TestFolderOnAReadOnlyDisk(t *testing.T) {
	is := is.New(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		hubtest.Lacks(t, "mounting needs root")
	}
	defer syscall.Unmount(disk, 0)
	cfg := configOf(filepath.Join(disk, "data"))
	open(t, cfg).Close()
	is.NoErr(syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	before := filesOf(t, cfg.Dir)
	for range 2 {
		_, err := Open(cfg)
		is.True(errors.Is(err, syscall.EROFS))
	}
	is.Equal(filesOf(t, cfg.Dir), before)
	is.NoErr(syscall.Mount("", disk, "", syscall.MS_REMOUNT, ""))
	open(t, cfg).Close()
}
