package folder

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
)

// openPeer opens a folder that is one of several, whose leader soon sees who was replaced.
func openPeer(cfg Config) (*Folder, error) {
	f := newFolder(cfg)
	f.replacedEvery = 100 * time.Millisecond
	return f, f.open()
}

// openPeers opens folders that are peers of each other.
func openPeers(t *testing.T, n int) (folders []*Folder, reopen func(i int)) {
	t.Helper()
	var addrs []string
	for range n {
		addrs = append(addrs, fmt.Sprint("127.0.0.1:", natstest.FreePort(t)))
	}
	folders = make([]*Folder, n)
	configs := make([]Config, n)
	open := func(i int) {
		f, err := openPeer(configs[i])
		if err != nil {
			t.Error(err)
			return
		}
		folders[i] = f
	}
	var all sync.WaitGroup
	for i := range n {
		configs[i] = configOf(t.TempDir())
		configs[i].Peers = &Peers{Name: "test", Listen: addrs[i], Addrs: addrs}
		all.Go(func() { open(i) })
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, f := range folders {
			f.Close()
		}
	})
	return folders, open
}

// A folder says that it is whole when it has all that was acknowledged before, also an empty
// one in the place of one that was lost.
func TestWhole(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	folders, open := openPeers(t, 3)
	js := connect(t, folders[0], soon)
	until(t, func() bool {
		_, err := js.AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}, Replicas: 3})
		return err == nil
	})
	for _, f := range folders {
		until(t, func() bool { return f.Whole() == nil })
	}
	put := func(js nats.JetStreamContext, n int) {
		t.Helper()
		for range n {
			until(t, func() bool {
				_, err := js.Publish("kept", make([]byte, 64<<10))
				return err == nil
			})
		}
	}
	put(js, 500)
	for i := 2; i > 0; i-- {
		dir := folders[i].cfg.Dir
		folders[i].Close()
		is.NoErr(os.RemoveAll(dir))
		put(js, 1)
		open(i)
		var not error
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("peer %d: %v", i, not)
			}
		})
		until(t, func() bool { not = folders[i].Whole(); return not == nil })
		is.True(folders[i].current().lasts()["kept"] >= uint64(500+3-i))
	}
	info, err := js.StreamInfo("kept", nats.MaxWait(time.Minute))
	is.NoErr(err)
	is.Equal(len(info.Cluster.Replicas), 2) // nobody has come beside those who were there
}

// What one of three keeps alone, such as the mark of a restore, the others lack nothing of.
func TestWholeBesideWhatOneKeepsAlone(t *testing.T) {
	t.Parallel()
	folders, _ := openPeers(t, 3)
	js := connect(t, folders[0], soon)
	for name, replicas := range map[string]int{"kept": 3, "alone": 1} {
		until(t, func() bool {
			_, err := js.AddStream(&nats.StreamConfig{Name: name, Subjects: []string{name}, Replicas: replicas})
			return err == nil
		})
	}
	for _, f := range folders {
		until(t, func() bool { return f.Whole() == nil })
	}
}
