package folder

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
)

// A folder that was lost, and comes back as a new one at the same address, has all that the
// old one had, and takes its place: another may be lost then.
func TestFolderReplaced(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	var addrs []string
	for range 3 {
		addrs = append(addrs, fmt.Sprint("127.0.0.1:", natstest.FreePort(t)))
	}
	member := func(n int) *Folder {
		cfg := configOf(filepath.Join(t.TempDir(), "folder"))
		cfg.Peers = &Peers{Name: "test", Listen: addrs[n], Addrs: addrs}
		f, err := openPeer(cfg)
		is.NoErr(err)
		return f
	}
	first, second, third := member(0), member(1), member(2)
	defer second.Close()
	js := connect(t, second)
	until(t, func() bool {
		_, err := js.AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}, Replicas: 3})
		return err == nil
	})
	publish := func() bool { _, err := js.Publish("kept", []byte("word")); return err == nil }
	until(t, publish)
	kept := messages(t, js)

	third.Close()
	third = member(2) // its folder is another
	defer third.Close()
	until(t, func() bool {
		info, err := js.StreamInfo("kept")
		if err != nil || info.Cluster == nil || len(info.Cluster.Replicas) != 2 {
			return false
		}
		there := info.Cluster.Leader == third.about.ID
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return false
			}
			there = there || r.Name == third.about.ID
		}
		return there
	})
	first.Close()
	until(t, publish)
	is.True(messages(t, js) > kept)
}

func until(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to it")
		}
	}
}
