package natstest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Snapshot stops a server, and returns what has it lose all that it is given afterwards:
// the server is down then.
func (b *Broker) Snapshot(t testing.TB) (lose func()) {
	t.Helper()
	dir, copied := b.StoreDir(0), filepath.Join(t.TempDir(), "copy")
	b.Stop(0)
	if out, err := exec.Command("cp", "-r", dir, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.Restart(t, 0)
	return func() {
		b.Stop(0)
		if err := errors.Join(os.RemoveAll(dir), os.Rename(copied, dir)); err != nil {
			t.Fatal(err)
		}
	}
}
