package folder

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// At a full disk nothing is acknowledged, and what was is there still; once there is room
// things go on by themselves.
func TestDiskThatFillsAndEmpties(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		hubtest.Lacks(t, "mounting needs root")
	}
	defer syscall.Unmount(disk, 0)
	cfg := configOf(filepath.Join(disk, "data"))
	f := open(t, cfg)
	defer f.Close()
	js := connect(t, f)
	_, err := js.AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}})
	is.NoErr(err)
	var acknowledged uint64
	publish := func() error {
		_, err := js.Publish("kept", make([]byte, 60<<10))
		if err == nil {
			acknowledged++
		}
		return err
	}
	for range 50 {
		is.NoErr(publish())
	}
	js = connect(t, f, soon)
	ballast := filepath.Join(disk, "ballast")
	file, err := os.Create(ballast)
	is.NoErr(err)
	for err = error(nil); err == nil; {
		_, err = file.Write(make([]byte, 64<<10))
	}
	file.Close()
	testkit.Eventually(t, func() bool { return publish() != nil })
	testkit.Eventually(t, func() bool { return f.current() == nil })
	is.True(publish() != nil)

	is.NoErr(os.Remove(ballast))
	before := acknowledged
	testkit.Eventually(t, func() bool { return publish() == nil })
	is.True(messages(t, js) >= acknowledged) // some may be kept that were not acknowledged
	is.Equal(acknowledged, before+1)
}
