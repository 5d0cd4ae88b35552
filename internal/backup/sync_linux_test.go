package backup

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker"
	"realtimehub/internal/hubtest"
)

// A restore says that it has restored once all is on the folder's disk, also through a hub that
// runs. What stands for a disk that fails is a read-only one in the folder, with a file.
func TestRestoreThatIsNotOnTheDisk(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	refused := func(t *testing.T, at place) {
		is := is.New(t)
		disk := filepath.Join(at.dir, "disk")
		is.NoErr(os.Mkdir(disk, 0o700))
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
			hubtest.Lacks(t, "mounting needs root")
		}
		defer syscall.Unmount(disk, 0)
		is.NoErr(os.WriteFile(filepath.Join(disk, "file"), nil, 0o600))
		is.NoErr(syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		said, err := at.command(t, "restore", file)
		is.Equal(said, "")
		is.True(errors.Is(err, errRestored) && errors.Is(err, syscall.EROFS))
	}
	t.Run("alone", func(t *testing.T) {
		at := inFolder(t)
		at.hub(t, func(*broker.Broker) {})
		refused(t, at)
	})
	t.Run("through a hub", func(t *testing.T) {
		at := inFolder(t)
		at.hub(t, func(*broker.Broker) { refused(t, at) })
	})
}
