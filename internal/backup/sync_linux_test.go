package backup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker"
)

// A restore says that it has restored once all is on the folder's disk, also through a hub that
// runs. What stands for a disk that fails is a program that runs: nobody can open it to write.
func TestRestoreThatIsNotOnTheDisk(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	path, err := exec.LookPath("sleep")
	is.New(t).NoErr(err)
	program, err := os.ReadFile(path)
	is.New(t).NoErr(err)
	refused := func(t *testing.T, at place) {
		is := is.New(t)
		busy := filepath.Join(at.dir, "busy")
		is.NoErr(os.WriteFile(busy, program, 0o700))
		cmd := exec.Command(busy, "600")
		cmd.Args[0] = "sleep" // which programs of several names go by
		is.NoErr(cmd.Start())
		said, err := at.command(t, "restore", file)
		is.NoErr(cmd.Process.Kill())
		cmd.Wait()
		is.Equal(said, "")
		is.True(errors.Is(err, syscall.ETXTBSY))
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
