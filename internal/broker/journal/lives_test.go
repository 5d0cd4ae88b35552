package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
)

func (u *user) ready() bool { return u.Ready() == nil && u.nc.IsConnected() }

func (u *user) lostAt(key string) (place uint64, told bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	place, told = u.lost[key]
	return place, told
}

// counted is the counter that the epoch has.
func counted(t *testing.T, u *user) string {
	t.Helper()
	js, err := jetstream.New(u.nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), settings.Prefix+"_epoch")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(t.Context(), "epoch")
	if err != nil {
		t.Fatal(err)
	}
	return string(entry.Value())
}

// One loss is one epoch, however many notice it at once, in whatever process; and what is
// kept after it has its place there, also before anybody has looked.
func TestOneLossIsOneEpoch(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	const at, each = 3, 8
	var users []*user
	for i := range at {
		users = append(users, openAt(t, proxy.URL(), fmt.Sprint("user", i), settings))
		users[i].attach("k")
	}
	one := users[0]
	one.append(it("k", "first"))
	before := one.Epoch()
	lose := b.Snapshot(t)
	for _, u := range users {
		await(t, u.ready)
	}
	for i := range 2 * at * each {
		one.append(it("k", fmt.Sprint("lost", i)))
	}
	for _, u := range users {
		is.NoErr(u.Reach(t.Context(), "k", before, uint64(2*at*each+1)))
	}
	lose()
	// The broker is asked for the stream again when all these are kept.
	var kept atomic.Int64
	all := make(chan struct{})
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.FromServer && strings.Contains(string(m.Data), `"seq":`) && strings.Contains(string(m.Data), `"stream":"test_journal"`) && kept.Add(1) == at*each {
			close(all)
		}
		if !m.FromServer && strings.Contains(m.Subject, "STREAM.INFO") {
			v.After = all
		}
		return v
	})
	b.Restart(t, 0)
	var wg sync.WaitGroup
	for i, u := range users {
		await(t, u.nc.IsConnected)
		for n := range each {
			wg.Go(func() {
				item := it("k", fmt.Sprint(i, ".", n))
				u.append(item)
				if item.Duplicate { // the broker was too busy to confirm it before, and to be asked for the stream
					return
				}
				if item.Epoch == before || item.Epoch != u.Epoch() {
					t.Errorf("place %d is of %q, not of %q", item.Seq, item.Epoch, u.Epoch())
				}
			})
		}
	}
	wg.Wait()
	for _, u := range users {
		await(t, func() bool { return u.Epoch() == one.Epoch() && u.Epoch() != before })
		await(t, func() bool {
			_, told := u.lostAt("k")
			return told
		})
	}
	for range 3 {
		one.probe()
	}
	is.Equal(counted(t, one), "1")
}

// What is of another history comes after it was said that there is a gap.
func TestAnotherHistoryComesAfterItsGap(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	cfg := settings
	var two *user
	var once sync.Once
	telling, appended, early := make(chan struct{}), make(chan struct{}), make(chan bool, 1)
	cfg.Lost = func(string, uint64) {
		once.Do(func() {
			close(telling)
			select {
			case <-appended:
			case <-t.Context().Done():
			}
			two.nc.Flush() // the broker has sent it
			early <- strings.Contains(two.seen("k"), "new")
		})
	}
	one := open(t, b, 0, "one", settings)
	two = open(t, b, 0, "two", cfg)
	two.attach("k")
	lose := b.Snapshot(t)
	await(t, func() bool { return one.ready() && two.ready() })
	one.append(it("k", "a"), it("k", "b"))
	two.await("k", "a b")
	lose()
	b.Restart(t, 0)
	<-telling
	await(t, one.ready)
	one.append(it("k", "new"))
	close(appended)
	two.await("k", "a b new")
	is.True(!<-early) // the gap was told before it came
	_, told := two.lostAt("k")
	is.True(told)
}

// A server that is behind tells of fewer messages than were seen. Nothing is lost, and
// nobody is told so.
func TestAnOldAnswerIsNoLoss(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	two.attach("k")
	one.append(it("k", "a"))
	two.await("k", "a")
	epoch := one.Epoch()
	var mu sync.Mutex
	var old []byte
	var again int
	isInfo := func(m *natstest.Message) bool {
		return m.FromServer && strings.Contains(string(m.Data), "stream_info_response") && strings.Contains(string(m.Data), `"test_journal"`)
	}
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !isInfo(m):
		case old == nil:
			old = m.Data
		default:
			v.Instead = old
			again++
		}
		return v
	})
	two.probe()
	for _, data := range []string{"b", "c", "d"} {
		one.append(it("k", data))
	}
	two.await("k", "a b c d")
	for range 3 {
		two.probe()
	}
	mu.Lock()
	is.True(again >= 3)
	mu.Unlock()
	_, err := two.state(t.Context())
	is.True(errors.Is(err, stream.ErrStale))
	_, err = two.Span(t.Context(), "k")
	is.True(errors.Is(err, stream.ErrStale))
	proxy.Rule(nil)
	two.probe()
	two.spanOf("k")
	is.Equal(two.Epoch(), epoch)
	is.Equal(one.Epoch(), epoch)
	is.Equal(len(two.lost), 0)
	one.append(it("k", "e"))
	two.await("k", "a b c d e")
}

// A place that somebody was given is there, or the history is another: whoever asks a
// server that is behind learns neither.
func TestConfirm(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := open(t, b, 0, "one", settings)
	lose := b.Snapshot(t)
	await(t, one.ready)
	item := it("k", "a")
	one.append(item, it("k", "b"))
	epoch := one.Epoch()
	fresh := open(t, b, 0, "two", settings)
	is.NoErr(fresh.Confirm(t.Context(), item.Seq))
	is.Equal(fresh.Epoch(), epoch)
	fresh.nc.Close()
	one.nc.Close()
	lose()
	b.Restart(t, 0)
	fresh = open(t, b, 0, "three", settings) // which has seen nothing
	is.Equal(fresh.Epoch(), epoch)
	is.NoErr(fresh.Confirm(t.Context(), item.Seq))
	is.True(fresh.Epoch() != epoch)
}

// The bucket of the epoch is deleted: what hubs know is in it again, nobody disagrees, and
// meanwhile what a key lacks is found.
func TestTheBucketIsGone(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	cfg := settings
	var mu sync.Mutex
	gone := map[string]int{}
	cfg.Gone = func(what string) {
		mu.Lock()
		defer mu.Unlock()
		gone[what]++
	}
	proxy := natstest.StartProxy(t, b.URL(0))
	one, two := openAt(t, proxy.URL(), "one", cfg), openAt(t, proxy.URL(), "two", cfg)
	js, err := jetstream.New(b.Connect(t, 0))
	is.NoErr(err)
	kv, err := js.KeyValue(t.Context(), settings.Prefix+"_epoch")
	is.NoErr(err)
	before := one.Epoch()
	_, err = kv.Put(t.Context(), "epoch", []byte("3")) // as after some losses
	is.NoErr(err)
	await(t, func() bool { return one.Epoch() != before && two.Epoch() == one.Epoch() })
	epoch, secret := one.Epoch(), one.Secret()
	two.attach("k")
	one.append(it("k", "a"))
	two.await("k", "a")
	await(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return gone["history"] == 2 // the two have been told of a loss
	})

	deleted := make(chan struct{}) // a server that makes it anew while it removes its folder has none then
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.Subject == "$JS.API.STREAM.CREATE.KV_"+settings.Prefix+"_epoch" {
			v.After = deleted
		}
		return v
	})
	is.NoErr(js.DeleteKeyValue(t.Context(), settings.Prefix+"_epoch"))
	folder := filepath.Join(b.StoreDir(0), "jetstream", "$G", "streams", "KV_"+settings.Prefix+"_epoch")
	await(t, func() bool {
		_, err := os.Stat(folder)
		return errors.Is(err, os.ErrNotExist)
	})
	close(deleted)
	two.deaf("k")
	one.append(it("k", "b"))
	two.await("k", "a b")
	await(t, func() bool {
		_, err := js.KeyValue(t.Context(), settings.Prefix+"_epoch")
		return err == nil
	})
	one.probe()
	two.probe()
	three := open(t, b, 0, "three", cfg)
	for _, u := range []*user{one, two, three} {
		is.Equal(u.Epoch(), epoch)
		is.Equal(u.Secret(), secret)
	}
	_, told := two.lostAt("k")
	is.True(!told)
	mu.Lock()
	defer mu.Unlock()
	is.True(gone["epoch"] >= 1)
	is.Equal(gone["history"], 2)
}

// The broker comes back empty, or the stream alone is deleted: all is made anew, and its
// loss told.
func TestAllIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testing.T, *natstest.Broker, *user){
		"the broker is empty": func(t *testing.T, b *natstest.Broker, _ *user) {
			dir := b.StoreDir(0)
			b.Stop(0)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			b.Restart(t, 0)
		},
		"the stream is deleted": func(t *testing.T, _ *natstest.Broker, u *user) {
			js, err := jetstream.New(u.nc)
			if err == nil {
				err = js.DeleteStream(t.Context(), settings.Prefix+"_journal")
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := natstest.Start(t, 1)
			cfg := settings
			var lost atomic.Int64
			cfg.Gone = func(what string) {
				if what == "history" {
					lost.Add(1)
				}
			}
			one, two := open(t, b, 0, "one", cfg), open(t, b, 0, "two", cfg)
			two.attach("k")
			for i := range 5 {
				one.append(it("k", fmt.Sprint(i)))
			}
			two.await("k", "0 1 2 3 4")
			before, secret := one.Epoch(), one.Secret()
			lose(t, b, two)
			await(t, func() bool { return one.Epoch() != before && two.Epoch() == one.Epoch() })
			await(t, func() bool { return one.ready() && two.ready() })
			is.Equal(one.Secret(), secret)
			is.Equal(two.Secret(), secret)
			await(t, func() bool {
				_, told := two.lostAt("k")
				return told && lost.Load() >= 2
			})
			is.Equal(lost.Load(), int64(2)) // each was told once
			item := it("k", "new")
			one.append(item)
			is.Equal(item.Epoch, two.Epoch())
			two.await("k", "0 1 2 3 4 new")
		})
	}
}

// Of three servers two are killed, one after the other. The last one has no leader, and
// tells of the stream as far as it has come, which may be anywhere: it is not believed.
func TestAReplicaWithoutLeaderIsNotBelieved(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.StartProcesses(t, 3)
	cfg := settings
	cfg.Replicas = 3
	one := openAt(t, b.URL(0), "one", cfg)
	one.attach("k")
	epoch := one.Epoch()
	one.append(it("k", "a"))
	b.Kill(1)
	b.Kill(2)
	await(t, func() bool { // at first nobody answers, or who leads no more and does not know it
		_, err := one.state(t.Context())
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, stream.ErrNoLeader)
	})
	await(t, func() bool {
		_, err := one.state(t.Context())
		if err == nil {
			t.Fatal("who has no leader is believed")
		}
		return errors.Is(err, stream.ErrNoLeader)
	})
	b.Start(t, 1)
	b.Start(t, 2)
	await(t, func() bool { return one.Append(t.Context(), []*Item{it("k", "last")}) == nil })
	is.Equal(one.Epoch(), epoch)
	_, told := one.lostAt("k")
	is.True(!told)
}
