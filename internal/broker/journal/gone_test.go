package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// raw appends messages as a version before did, which named none that was before them.
func (u *user) raw(key string, n int) (places []uint64) {
	u.t.Helper()
	for i := range n {
		o := origin{node: "before", number: uint64(i), of: 1}
		place, _, err := u.stream.Request(u.t.Context(), stream.NewMessage(u.subject(key), []byte(fmt.Sprint(i)), originHeader, o.String()))
		if err != nil {
			u.t.Fatal(err)
		}
		places = append(places, place)
	}
	return places
}

// kept is the stream, as an operator has it in hand.
func kept(t *testing.T, nc *nats.Conn, name string) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func (u *user) oldest(key string) uint64 {
	u.t.Helper()
	return u.spanOf(key).Oldest
}

// awaitOldest waits until a key is whole behind a place: a replica that is asked may lag behind.
func (u *user) awaitOldest(key string, place uint64) {
	u.t.Helper()
	testkit.Eventually(u.t, func() bool { return u.oldest(key) == place })
}

// What somebody purged or deleted is seen by who never knew of it: at the beginning, in
// the middle of what is read, and where nothing is left by who was there.
func TestWhatIsGoneIsSeen(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		one := open(t, b, 0, "one", cfg)
		one.append(it("other", "first")) // the stream begins with it
		var items []*Item
		for i := range 20 {
			items = append(items, it("k", fmt.Sprint(i)))
			one.append(items[i])
		}
		together := []*Item{it("k", "20"), it("k", "21")}
		one.append(together...)
		stream := kept(t, one.nc, one.stream.Name)
		two := open(t, b, len(b.Servers)-1, "two", cfg)
		is.Equal(two.oldest("k"), uint64(0))

		is.NoErr(stream.DeleteMsg(t.Context(), items[9].Seq))
		var got []string
		var gone *GoneError
		testkit.Eventually(t, func() bool { // a replica may lag behind
			got = nil
			return errors.As(two.Read(t.Context(), "k", 0, items[19].Seq, func(list []Message) bool {
				for _, m := range list {
					got = append(got, string(m.Data))
				}
				return true
			}), &gone)
		})
		is.Equal(gone.Oldest, items[9].Seq)
		is.Equal(strings.Join(got, " "), "0 1 2 3 4 5 6 7 8")

		is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSubject(one.subject("k")), jetstream.WithPurgeKeep(1)))
		two.awaitOldest("k", together[0].Seq)
		is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSubject(one.subject("k"))))
		one.awaitOldest("k", together[1].Seq)
		is.Equal(one.oldest("other"), uint64(0)) // nothing of it is gone
		one.append(it("k", "22"))
		is.Equal(two.oldest("k"), together[1].Seq)
	})
}

// Many find at once that a key was purged: all are told the same, and none that it could not
// be written down.
func TestManyFindAtOnceWhatIsGone(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		one := open(t, b, 0, "one", cfg)
		one.append(it("other", "first")) // the stream begins with it
		last := it("k", "a")
		one.append(last)
		is.NoErr(kept(t, one.nc, one.stream.Name).Purge(t.Context(), jetstream.WithPurgeSubject(one.subject("k"))))
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				var span Span
				var err error
				for deadline := time.Now().Add(time.Minute); span.Oldest != last.Seq && !Refused(err) && time.Now().Before(deadline); {
					span, err = one.Span(t.Context(), "k") // a busy machine was too slow, or a replica lags behind
				}
				if err != nil || span.Oldest != last.Seq {
					t.Errorf("whole from %d on, not from %d: %v", span.Oldest, last.Seq, err)
				}
			})
		}
		all.Wait()
	})
}

// Who follows a key sees that what it had last is gone, though who publishes next does not
// know of it; and takes nothing else for that: not batches, and no limit.
func TestWhoFollowsSeesWhatIsGone(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		cfg.PerKey = 5
		one := open(t, b, 0, "one", cfg)
		t.Run("nothing", func(t *testing.T) {
			two := open(t, b, len(b.Servers)-1, "two", cfg)
			two.attach("k")
			var want []string
			for i := range 20 {
				a, b := fmt.Sprint("a", i), fmt.Sprint("b", i)
				one.append(it("k", a), it("l", a), it("k", b))
				want = append(want, a, b)
			}
			two.await("k", strings.Join(want, " "))
		}) // it is closed, with all that it began
		cut, err := one.cutOf(t.Context(), "k")
		is.NoErr(err)
		is.Equal(cut, uint64(0))
		two := open(t, b, len(b.Servers)-1, "two", cfg)
		two.attach("k")
		one.append(it("k", "last"))
		two.await("k", "last")
		last := answered(t, func() (uint64, error) { return two.Last(t.Context(), "k") })
		is.NoErr(kept(t, one.nc, one.stream.Name).Purge(t.Context(), jetstream.WithPurgeSubject(one.subject("k"))))
		three := open(t, b, 0, "three", cfg)
		three.raw("k", 1)
		three.awaitOldest("k", last)
	})
}

// Where messages do not say what was before them, the limit that the stream has and had
// tells, whatever each process has set.
func TestALimitThatWasIsRemembered(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	small, large := settings, settings
	small.PerKey = 10
	one := open(t, b, 0, "one", small)
	one.append(it("other", "first"))
	first := one.raw("k", 30)[19] // of eleven, of which ten can be read
	one.raw("few", 5)
	is.Equal(one.oldest("k"), first)
	two := open(t, b, 0, "two", large)
	for _, u := range []*user{one, two} {
		is.Equal(u.oldest("k"), first-1) // which is the one after which it is whole
		is.Equal(u.oldest("few"), uint64(0))
	}
	one.raw("k", 10)
	one.raw("later", 20)
	three := open(t, b, 0, "three", large) // nothing was raised since
	for _, u := range []*user{one, two, three} {
		is.Equal(u.oldest("k"), first-1)
		is.Equal(u.oldest("later"), uint64(0)) // the limit was raised before
	}

	// Who was killed between has left it open.
	stream := kept(t, one.nc, one.stream.Name)
	config := stream.CachedInfo().Config
	config.Metadata[pastKey] = past{11, notYet}.String()
	js, err := jetstream.New(one.nc)
	is.NoErr(err)
	_, err = js.UpdateStream(t.Context(), config)
	is.NoErr(err)
	three.raw("last", 20)
	is.True(three.oldest("last") > 0) // it cannot be known
	four := open(t, b, 0, "four", large)
	four.raw("next", 20)
	is.Equal(four.oldest("next"), uint64(0))
	is.True(four.oldest("last") > 0)
}

// Who publishes may not know of the last message before its own. So where the limit has been
// raised since, what the oldest message names is not all that may have gone.
func TestWhatARaisedLimitTookIsGone(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	small, large := settings, settings
	small.PerKey = 10
	one := open(t, b, 0, "one", small)
	one.append(it("other", "first"))
	var places []uint64
	for i := range 30 {
		o := origin{node: "late", number: uint64(i), of: 1}
		if i > 1 {
			o.prev = places[i-2] // it has not seen the last yet
		}
		place, _, err := one.stream.Request(t.Context(), stream.NewMessage(one.subject("k"), []byte("x"), originHeader, o.String()))
		is.NoErr(err)
		places = append(places, place)
	}
	first := places[len(places)-11] // of eleven
	is.Equal(one.oldest("k"), first)
	two := open(t, b, 0, "two", large)
	for _, u := range []*user{one, two} {
		is.Equal(u.oldest("k"), first-1)
		err := u.Read(t.Context(), "k", first-2, places[29], func([]Message) bool { return true })
		_, gone := errors.AsType[*GoneError](err)
		is.True(gone) // first-1 is not there
	}
}

// A lower limit takes the oldest, and no more than it says, of keys that are appended to
// meanwhile: a server that lowers it takes as many once more.
func TestALowerLimitTakesOnlyTheOldest(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		large, small := cfg, cfg
		large.PerKey, small.PerKey = 1000, 100
		one := open(t, b, 0, "one", large)
		one.raw("other", 1)
		var subjects []string
		for i := range 8 {
			subjects = append(subjects, one.subject(fmt.Sprint("k", i)))
		}
		for range large.PerKey {
			for _, subject := range subjects {
				is.NoErr(one.nc.PublishMsg(stream.NewMessage(subject, []byte("old"))))
			}
		}
		counts := func() map[string]uint64 {
			info, err := kept(t, one.nc, one.stream.Name).Info(t.Context(), jetstream.WithSubjectFilter(cfg.Prefix+".ev.*"))
			is.NoErr(err)
			return info.State.Subjects
		}
		for deadline := time.Now().Add(time.Minute); counts()[subjects[len(subjects)-1]] < uint64(large.PerKey); time.Sleep(10 * time.Millisecond) {
			is.True(time.Now().Before(deadline))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var appending sync.WaitGroup
		for _, subject := range subjects {
			for range 2 {
				appending.Go(func() {
					for ctx.Err() == nil {
						one.stream.Request(ctx, stream.NewMessage(subject, []byte("new")))
					}
				})
			}
		}
		open(t, b, len(b.Servers)-1, "two", small)
		cancel()
		appending.Wait()
		left := counts()
		for _, subject := range subjects {
			is.True(left[subject] >= uint64(small.PerKey)) // what can be read
		}
	})
}

// A version before reads the first word as a node's name, and this one what it writes.
func TestOrigin(t *testing.T) {
	is := is.New(t)
	is.Equal(parseOrigin("node 7 1 2 3"), origin{"node", 7, 1, 2, 3, 0})
	o := origin{"node", 7, 1, 2, 3, 12}
	is.Equal(parseOrigin(o.String()), o)
	is.Equal(len(strings.Fields(o.String())), 5)
	var text string
	is.Equal(testing.AllocsPerRun(100, func() { text = o.String() }), 1.0)
	is.True(text != "")
}

// Of many keys the last places are forgotten again.
func TestLastsAreBounded(t *testing.T) {
	is := is.New(t)
	l := &lasts{}
	for i := range 5 * mostLasts {
		l.note(fmt.Sprint(i), uint64(i))
		l.note("often", uint64(i))
	}
	is.True(len(l.young)+len(l.old) <= 2*mostLasts)
	is.Equal(l.of("often"), uint64(5*mostLasts-1))
	is.Equal(l.of("0"), uint64(0))
	is.Equal(testing.AllocsPerRun(100, func() { l.note("often", 1) }), 0.0)
}
