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

// Where the disk is too full for a backup there is none, not a part of one; one of before
// stays as it was.
func TestBackupToAFullDisk(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
		hubtest.Lacks(t, "mounting needs root")
	}
	defer syscall.Unmount(disk, 0)
	at, file := inFolder(t), filepath.Join(disk, "file")
	at.hub(t, func(b *broker.Broker) {
		fill(t, b)
		for n, before := range []string{"", "an older one"} {
			if n > 0 {
				is.NoErr(os.WriteFile(file, []byte(before), 0o600))
			}
			_, err := at.command(t, "backup", file)
			is.True(errors.Is(err, syscall.ENOSPC))
			left, err := os.ReadDir(disk)
			is.NoErr(err)
			is.Equal(len(left), n)
		}
		text, err := os.ReadFile(file)
		is.NoErr(err)
		is.Equal(string(text), "an older one")
	})
	at.hub(t, func(b *broker.Broker) { whole(t, b, true) })
}
