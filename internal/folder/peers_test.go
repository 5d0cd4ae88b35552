package folder

import (
	"fmt"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

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
		f, err := Open(configs[i])
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

// lastHere is the last position of the stream in a folder's own server.
func lastHere(t *testing.T, f *Folder) uint64 {
	t.Helper()
	info, err := f.current().server.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			return stream.State.LastSeq
		}
	}
	return 0
}

// A folder says that it is whole when it has all that was acknowledged before, and an empty
// one takes the place of one that was lost.
func TestWhole(t *testing.T) {
	is := is.New(t)
	folders, open := openPeers(t, 3)
	for i, f := range folders {
		is.Equal(f.about.ID, fmt.Sprint("hub-", i+1))
		testkit.Eventually(t, func() bool { return f.Whole() == nil })
	}
	js := connect(t, folders[0])
	_, err := js.AddStream(&nats.StreamConfig{Name: "kept", Subjects: []string{"kept"}, Replicas: 3})
	is.NoErr(err)
	put := func(js nats.JetStreamContext, n int) {
		t.Helper()
		for range n {
			testkit.Eventually(t, func() bool {
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
		testkit.Eventually(t, func() bool { return folders[i].Whole() == nil })
		is.True(lastHere(t, folders[i]) >= uint64(500+3-i))
	}
	info, err := js.StreamInfo("kept")
	is.NoErr(err)
	is.Equal(len(info.Cluster.Replicas), 2) // nobody has come beside those who were there
}

// An address at which somebody else is, or nobody, is no place.
func TestPlaceThatIsNone(t *testing.T) {
	is := is.New(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer l.Close()
	p := &Peers{Addrs: []string{l.Addr().String(), "127.0.0.1:1"}}
	_, found := p.call("word")
	is.True(!found)
}
