package journal

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// deaf has a feed hear nothing any more of what is republished.
func (u *user) deaf(key string) {
	if err := u.feed(key).sub.Unsubscribe(); err != nil {
		u.t.Fatal(err)
	}
}

// The last message is lost on its way and nothing follows that would tell: the
// sweep of each second finds it, the first one that covers it or none.
func TestTailLoss(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		two.attach("k")
		two.attach("quiet")
		one.append(it("k", "a"))
		two.await("k", "a")
		two.deaf("k")
		last := it("k", "b")
		one.append(last)
		testkit.Eventually(t, func() bool { return two.swept.Load() >= last.Seq })
		two.await("k", "a b")
	})
}

// What is passed to others and not kept is lost where they cannot be told, and is
// counted.
func TestUnpassed(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	cfg := settings
	cfg.Prefix = "unpassed"
	one := open(t, b, 0, "one", cfg)
	pass := func() []*Item {
		return []*Item{{Key: "k", Data: []byte("a"), Pass: true}, {Key: "k", Data: []byte("b"), Pass: true}}
	}
	is.NoErr(one.Append(t.Context(), pass()))
	is.Equal(one.Unpassed(), int64(0))
	one.nc.Close()
	is.NoErr(one.Append(t.Context(), pass()))
	is.Equal(one.Unpassed(), int64(2))
}

// What a feed misses in the middle it reads back, in order and once.
func TestGapIsReadBack(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		two.attach("k")
		f := two.feed("k")
		var want []string
		for i := range 300 {
			if i == 100 {
				two.deaf("k")
			}
			if i == 200 { // as when it hears again
				var err error
				f.mu.Lock()
				f.sub, err = two.nc.ChanSubscribe(cfg.Prefix+".live."+stream.Token("k")+".*", two.pumps[0])
				f.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				two.nc.Flush()
			}
			want = append(want, fmt.Sprint(i))
			one.append(it("k", fmt.Sprint(i)))
		}
		two.await("k", strings.Join(want, " "))
	})
}

// While one attaches, another appends: all that comes after the head is handed over.
func TestAttachSeam(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		cfg.PerKey = 0
		one := open(t, b, 0, "one", cfg)
		const rounds, each = 10, 100
		for round := range rounds {
			key := fmt.Sprint("k", round)
			two := open(t, b, (1+round)%len(b.Servers), fmt.Sprint("two", round), cfg)
			begun, attached, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
			items := make([]*Item, each)
			go func() {
				defer close(done)
				for i := range items {
					items[i] = it(key, fmt.Sprint(i))
					one.append(items[i])
					switch i {
					case each / 10:
						close(begun)
					case each / 2: // something comes after the head
						<-attached
					}
				}
			}()
			<-begun
			head := two.attach(key)
			close(attached)
			<-done
			is.NoErr(two.Reach(t.Context(), key, two.Epoch(), items[each-1].Seq))
			var all, after []string
			for _, it := range items {
				all = append(all, string(it.Data))
				if it.Seq > head {
					after = append(after, string(it.Data))
				}
			}
			got := strings.Fields(two.seen(key))
			is.True(len(got) >= len(after) && len(after) > 0) // all after the head; some before it may have been there
			is.Equal(got, all[len(all)-len(got):])            // without a gap or a repeat
		}
	})
}

// A key that falls behind what is kept is told so, and goes on with what remains.
func TestLostIsTold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	cfg := settings
	cfg.PerKey = 10
	b := natstest.Start(t, 1)
	one, two := open(t, b, 0, "one", cfg), open(t, b, 0, "two", cfg)
	two.attach("k")
	one.append(it("k", "first"))
	two.await("k", "first")
	two.deaf("k")
	var items []*Item
	for i := range 50 {
		items = append(items, it("k", fmt.Sprint(i)))
	}
	one.append(items...)
	two.await("k", "first 40 41 42 43 44 45 46 47 48 49")
	two.mu.Lock()
	defer two.mu.Unlock()
	is.Equal(two.lost["k"], items[39].Seq)
}

// A broker that comes back without its last writes gives their places again: that is
// another epoch, for all, and everybody begins anew.
func TestEpoch(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two := open(t, b, 0, "one", settings), open(t, b, 0, "two", settings)
	one.attach("k")
	one.append(it("k", "a"))
	before := one.Epoch()
	is.Equal(two.Epoch(), before)
	dir, copied := b.StoreDir(0), filepath.Join(t.TempDir(), "copy")
	b.Stop(0)
	is.NoErr(exec.Command("cp", "-r", dir, copied).Run())
	b.Restart(t, 0)
	await(t, func() bool { return one.Ready() == nil && one.nc.IsConnected() })
	one.append(it("k", "b"), it("k", "c"))
	b.Stop(0)
	is.NoErr(os.RemoveAll(dir))
	is.NoErr(os.Rename(copied, dir))
	b.Restart(t, 0)
	await(t, func() bool { return one.Epoch() != before && two.Epoch() == one.Epoch() })
	await(t, func() bool {
		_, told := one.lostAt("k")
		return told
	})
	one.append(it("k", "d"))
	is.Equal(one.seen("k"), "a b c d")
}

// One sweep moves the places of all quiet keys on, with a few questions however many they
// are: also of those that never had a message, and of those whose last one has gone.
func TestQuietMovesOn(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	cfg := settings
	cfg.PerKey, cfg.Bytes = 0, 64<<10
	one := open(t, b, 0, "one", cfg)
	const quiet = 1500
	key := func(i int) string { return fmt.Sprint("quiet-", i) }
	for i := range quiet {
		one.attach(key(i))
	}
	one.append(it(key(0), "a"), it(key(1), "a"))
	one.attach("followed")
	fewest := uint64(1 << 20)
	for round := range 5 {
		for i := range 200 {
			one.append(it([]string{"busy", "followed"}[i%2], fmt.Sprint(round, i, strings.Repeat("x", 500))))
		}
		s := one.stateNow()
		asked := one.nc.Stats().OutMsgs
		is.NoErr(one.sweep(t.Context(), s))
		fewest = min(fewest, one.nc.Stats().OutMsgs-asked)
		is.NoErr(one.sweep(t.Context(), s)) // the journal's own may have come between
		for i := range quiet {
			place, idle := one.feed(key(i)).idle()
			is.True(idle && place >= s.Last)
		}
	}
	is.True(fewest <= 3) // the last one's subject, and two parts
	s := one.stateNow()
	is.True(s.First > 500) // it would have left them behind
	one.append(it(key(0), "b"), it(key(2), "c"))
	is.Equal(one.seen(key(0)), "a b")
	is.Equal(one.seen(key(2)), "c")
}
