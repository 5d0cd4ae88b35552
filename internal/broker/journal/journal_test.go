package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// user is one process's journal, and all that it was handed.
type user struct {
	*Journal
	t *testing.T

	mu sync.Mutex
	// Guarded by mu.
	got   map[string][]string
	parts []int
	lost  map[string]uint64
}

var settings = Config{Prefix: "test", Replicas: 1, PerKey: 1000, Bytes: 64 << 20, Age: time.Hour, Window: time.Minute}

func open(t *testing.T, b *natstest.Broker, server int, node string, cfg Config) *user {
	t.Helper()
	return openAt(t, b.URL(server), node, cfg)
}

// openAt is open at a server, or several with commas.
func openAt(t *testing.T, url, node string, cfg Config) *user {
	t.Helper()
	u := &user{t: t, got: map[string][]string{}, lost: map[string]uint64{}}
	cfg.Node, cfg.Logger = node, slog.New(slog.DiscardHandler)
	cfg.Handle = func(key string, items []*Item) {
		u.mu.Lock()
		defer u.mu.Unlock()
		for _, it := range items {
			u.got[key] = append(u.got[key], string(it.Data))
		}
		u.parts = append(u.parts, len(items))
	}
	cfg.Flush = func(string) {}
	cfg.Quiet = func(string, uint64) {}
	told := cfg.Lost
	cfg.Lost = func(key string, place uint64) {
		if told != nil {
			told(key, place)
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.lost[key] = place
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	nc := natstest.Connect(t, url, nats.NoEcho(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	cfg.Connected = nc.IsConnected
	j, err := Open(ctx, nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	u.Journal = j
	t.Cleanup(j.Close)
	return u
}

func (u *user) attach(key string) uint64 {
	u.t.Helper()
	return answered(u.t, func() (uint64, error) {
		head, _, err := u.Attach(u.t.Context(), key)
		return head, err
	})
}

func (u *user) spanOf(key string) Span {
	u.t.Helper()
	return answered(u.t, func() (Span, error) { return u.Span(u.t.Context(), key) })
}

// dataOf is what can be read of a key after a place, up to another.
func (u *user) dataOf(key string, after, until uint64) []string {
	u.t.Helper()
	return answered(u.t, func() (all []string, err error) {
		err = u.Read(u.t.Context(), key, after, until, func(list []Message) bool {
			for _, m := range list {
				all = append(all, string(m.Data))
			}
			return true
		})
		return all, err
	})
}

func (u *user) stateNow() stream.State {
	u.t.Helper()
	return answered(u.t, func() (stream.State, error) { return u.state(u.t.Context()) })
}

// answered asks again while a broker that is slow does not answer.
func answered[T any](t *testing.T, ask func() (T, error)) T {
	t.Helper()
	return testkit.Answer(t, isBusy, ask)
}

// append appends items, again where a broker that is slow did not confirm them.
func (u *user) append(items ...*Item) {
	u.t.Helper()
	err := u.Append(u.t.Context(), items)
	for deadline := time.Now().Add(time.Minute); errors.Is(err, stream.ErrUnconfirmed) && time.Now().Before(deadline); {
		err = u.Append(u.t.Context(), items)
	}
	if err != nil {
		u.t.Error(err)
	}
}

func (u *user) seen(key string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.got[key], " ")
}

// await waits until a key's items are as wanted, for a minute in which nothing comes.
func (u *user) await(key, want string) {
	u.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for before := 0; ; time.Sleep(time.Millisecond) {
		u.mu.Lock()
		items, bytes := len(u.got[key]), 0
		for _, data := range u.got[key] {
			bytes += len(data)
		}
		u.mu.Unlock()
		if bytes+items-1 == len(want) && u.seen(key) == want { // the text of much is not made in vain
			return
		}
		if items > before {
			before, deadline = items, time.Now().Add(time.Minute)
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("%s has %.1000q, not %.1000q", key, u.seen(key), want)
		}
	}
}

func it(key, data string) *Item { return &Item{Key: key, ID: data, Data: []byte(data)} }

// brokers runs a test on one server, and on a cluster with three replicas.
func brokers(t *testing.T, test func(t *testing.T, b *natstest.Broker, cfg Config)) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprint("R", n), func(t *testing.T) {
			t.Parallel()
			cfg := settings
			cfg.Replicas = n
			test(t, natstest.Start(t, n), cfg)
		})
	}
}

// What one appends reaches all who follow, itself before Append returns; a batch is
// together, with what is passed beside it in its place.
func TestAppend(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		head := one.attach("k")
		two.attach("k")
		two.attach("l")
		a := it("k", "a")
		one.append(a)
		is.Equal(one.seen("k"), "a")
		is.True(a.Seq > head) // trials take places too
		two.await("k", "a")
		p := &Item{Key: "k", Data: []byte("p"), Pass: true}
		c, d := it("k", "c"), it("k", "d")
		one.append(c, p, it("l", "x"), d)
		is.Equal(d.Seq, c.Seq+1)
		is.Equal(one.seen("k"), "a c p d")
		two.await("k", "a c p d")
		two.await("l", "x")
		is.Equal(one.parts, []int{1, 3})
		two.append(&Item{Key: "k", Data: []byte("q"), Pass: true})
		is.Equal(two.seen("k"), "a c p d q")
		one.await("k", "a c p d q")
		is.Equal(two.dataOf("k", 0, d.Seq), []string{"a", "c", "d"})
	})
}

// An id is one event's, whoever brings it, alone or in a batch, kept or passed.
func TestIDs(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		one.attach("k")
		first := it("k", "a")
		one.append(first, it("k", "b"))
		again, twice := it("k", "a"), it("k", "c")
		two.append(again, it("k", "b"), twice, it("k", "c"), it("l", "a"))
		is.True(again.Duplicate)
		is.Equal(again.Seq, first.Seq)
		is.True(!again.At.IsZero())
		is.True(!twice.Duplicate)
		one.await("k", "a b c")
		pass := func() *Item { return &Item{Key: "k", ID: "p", Data: []byte("p"), Pass: true} }
		two.append(pass())
		one.await("k", "a b c p")
		last := pass()
		one.append(last, it("k", "d"))
		is.True(last.Duplicate)
		is.Equal(last.Seq, uint64(0))
		one.await("k", "a b c p d")
	})
}

// The same id at once in two processes is accepted once, and once a duplicate.
func TestSameIDAtOnce(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		one.attach("k")
		for i := range 200 {
			items := []*Item{it("k", fmt.Sprint(i)), it("k", fmt.Sprint(i))}
			var wg sync.WaitGroup
			wg.Go(func() { one.append(items[0]) })
			wg.Go(func() { two.append(items[1]) })
			wg.Wait()
			if items[0].Duplicate == items[1].Duplicate || items[0].Seq != items[1].Seq {
				t.Fatalf("%d: %+v %+v", i, items[0], items[1])
			}
		}
	})
}

// Many append at once: all see one order, and nothing twice.
func TestOneOrder(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		cfg.PerKey = 0
		users := []*user{open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)}
		for _, u := range users {
			u.attach("k")
		}
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := range 50 {
					for unsure := true; unsure; { // a busy machine's broker may be late
						err := users[w%2].Append(t.Context(), []*Item{it("k", fmt.Sprint(w, ".", i)), it("k", fmt.Sprint(w, ".", i, "+"))})
						if unsure = errors.Is(err, stream.ErrUnconfirmed); err != nil && !unsure {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		last := it("k", "last")
		users[0].append(last)
		for _, u := range users { // also who appended it: a busy machine's broker may be late with what was before
			testkit.Eventually(t, func() bool { return u.Reach(t.Context(), "k", u.Epoch(), last.Seq) == nil })
		}
		is.Equal(users[0].seen("k"), users[1].seen("k"))
		is.Equal(len(strings.Fields(users[0].seen("k"))), 16*50*2+1)
	})
}
