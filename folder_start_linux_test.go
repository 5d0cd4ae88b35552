package main

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// A hub whose folder cannot be written does not start, whether it was one of a hub or not.
func TestAStartOnAReadOnlyDiskFails(t *testing.T) {
	is := is.New(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		hubtest.Lacks(t, "mounting needs root")
	}
	defer syscall.Unmount(disk, 0)
	start := func(dir string) error {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		return run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_DATA=" + dir}, io.Discard, func(net.Addr) { stop() })
	}
	used := filepath.Join(disk, "used")
	is.NoErr(start(used))
	is.NoErr(syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	for _, dir := range []string{used, filepath.Join(disk, "new")} {
		err := start(dir)
		is.True(errors.Is(err, syscall.EROFS))
		is.True(strings.HasPrefix(err.Error(), "REALTIME_DATA: "+dir+": "))
	}
	is.NoErr(syscall.Mount("", disk, "", syscall.MS_REMOUNT, ""))
	is.NoErr(start(used))
}
