package folder

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"
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
	js := connect(t, second, soon)
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

// Who has come in the place of a lost one is not removed for it, though the lost one is still
// current, and it is not yet.
func TestReplacedIsWhoCannotBeReached(t *testing.T) {
	is := is.New(t)
	stayed := &server.PeerInfo{Name: "stayed", Peer: "1", Current: true}
	lost := &server.PeerInfo{Name: "lost", Peer: "2", Current: true}
	came := &server.PeerInfo{Name: "came", Peer: "3"}
	others := []*server.PeerInfo{stayed, lost, came}

	reached := map[string]bool{"stayed": true, "lost": true, "came": true} // the connection to the lost one is not closed yet
	is.Equal(replacedAmong(others, reached, 3), nil)
	delete(reached, "lost")
	is.Equal(replacedAmong(others, reached, 3), nil) // three do not have all yet
	came.Current = true
	is.Equal(replacedAmong(others, reached, 3), []string{"2"})
	delete(reached, "stayed")
	is.Equal(replacedAmong(others, reached, 3), nil) // of three, two are away
}

func until(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to it")
		}
	}
}
