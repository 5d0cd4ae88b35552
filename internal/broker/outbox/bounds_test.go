package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/outbox/outboxtest"
	"realtimehub/internal/testkit"
)

// All tenants have what they may have together: who has most loses its oldest, which is counted
// and logged, and what is left of it is known by its keys.
func TestBoundedBytes(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const limit = 1 << 20
	logged := &testkit.Buffer{}
	b := open(t, natstest.Start(t, 1).URL(0), "test", func(c *Config) {
		c.Bytes, c.Logger = limit, slog.New(slog.NewTextHandler(logged, nil))
	})
	outboxtest.Put(t, b, "small", "k", "s")
	text := strings.Repeat("x", 200)
	put := 0
	for i := range 60 {
		var names []string
		for k := range 50 {
			names = append(names, fmt.Sprint(i, "/", k, text))
		}
		outboxtest.Put(t, b, "large", fmt.Sprint("key", i), names...)
		put += len(names)
		stats := b.Stats()
		is.True(stats.Unknown || stats.Bytes <= limit)
	}
	var stats outbox.Stats
	testkit.Eventually(t, func() bool {
		b.Sweep(time.Now())
		stats = b.Stats()
		return !stats.Unknown
	})
	is.True(stats.Cut > 500)
	is.Equal(stats.Limit, int64(limit))
	is.Equal(stats.Items, 1+put-int(stats.Cut))
	is.True(stats.Bytes > limit/2) // no more has gone than has to
	is.True(strings.Contains(logged.String(), "lost their oldest items"))
	is.Equal(outboxtest.Names(outboxtest.ReadAll(t, b, "small", 10)), []string{"s"})
	items := outboxtest.ReadAll(t, b, "large", 1000)
	outboxtest.InOrder(t, items)
	is.Equal(len(items), stats.Items-1)
	is.Equal(items[len(items)-1].Seq, outboxtest.Newest(t, b, "large"))
	page := outboxtest.Read(t, b, "large", outbox.Query{After: items[0].Seq - 2, Limit: 1})
	is.True(page.Gap(items[0].Seq - 2))
	is.Equal(page.Oldest, items[0].Seq)

	newest, first := outboxtest.Newest(t, b, "large"), outboxtest.Names(items)[0]
	key := "key" + strings.SplitN(first, "/", 2)[0] // some with this one have gone, and others not
	outboxtest.Put(t, b, "large", key, "again")
	is.Equal(outboxtest.Newest(t, b, "large"), newest)
	outboxtest.Put(t, b, "large", "key0", "as if it were new")
	is.Equal(outboxtest.Newest(t, b, "large"), newest+1)
}

// Each tenant has what the others leave to it, and no more.
func TestLevel(t *testing.T) {
	for _, c := range []struct {
		room, want int64
		have       []int64
	}{
		{100, 50, []int64{80, 90}},
		{100, 70, []int64{80, 10, 20, 0}},
		{100, 45, []int64{10, 80, 90}},
		{100, 0, nil},
		{0, 0, []int64{5}},
		{-5, 0, []int64{5, 6}},
	} {
		is := is.New(t)
		var list []*holding
		for _, n := range c.have {
			list = append(list, &holding{bytes: n})
		}
		got := level(list, c.room)
		if len(list) > 0 {
			is.Equal(got, c.want)
		}
	}
}

// Everything fades by the broker's clock: items and keys after three days, and what is known of
// their places after ten times that.
func TestAllFades(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	b := open(t, broker.URL(0), "test")
	outboxtest.Put(t, b, "acme", "k", "a")
	place := outboxtest.Newest(t, b, "acme")
	outboxtest.Taken(t, b, "acme", place)
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	s, err := js.Stream(t.Context(), b.stream.Name)
	is.NoErr(err)
	for subject, want := range map[string]string{
		b.itemSubject("acme", place): "259200", b.keySubject("acme", "k", 0): "259200",
		b.subject(kindHead, "acme"): "2592000", b.subject(kindTaken, "acme"): "2592000",
	} {
		msg, err := s.GetLastMsgForSubject(t.Context(), subject)
		is.NoErr(err)
		is.Equal(msg.Header.Get(jetstream.MsgTTLHeader), want)
	}
	outboxtest.Put(t, b, "acme", "k2", "b")
	is.NoErr(s.Purge(t.Context(), jetstream.WithPurgeSubject(b.itemSubject("acme", place)))) // as if it had faded
	page := outboxtest.Read(t, b, "acme", outbox.Query{After: place, Limit: 10})
	is.True(!page.Gap(place))
	is.Equal(outboxtest.Names(page.Items), []string{"b"})
	page = outboxtest.Read(t, b, "acme", outbox.Query{After: place - 1, Limit: 10})
	is.True(page.Gap(place - 1))
	is.Equal(outboxtest.Names(page.Items), []string{"b"})
	is.NoErr(s.Purge(t.Context(), jetstream.WithPurgeSubject(b.itemsSubject("acme"))))
	page = outboxtest.Read(t, b, "acme", outbox.Query{After: place + 1, Limit: 10})
	is.Equal(page, outbox.Page{Oldest: place + 2, Newest: place + 1})
	outboxtest.Put(t, b, "acme", "k3", "c")
	is.Equal(outboxtest.Newest(t, b, "acme"), place+2) // no place is given twice
}

// Reading needs no consumer, and following one, however many tenants there are.
func TestFewConsumers(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	proxy := broker.Proxies(t)[0]
	b := open(t, proxy.URL(), "test")
	const tenants = 3 * fetchRows
	outboxtest.Put(t, b, "acme", "", "a", "b")
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	for i := range tenants - 1 { // as if for each of them something had been put
		_, err := js.PublishMsgAsync(fading(b.subject(kindHead, fmt.Sprint(i)), head{newest: 2, begin: 2, start: 2}.data(), rowTTL))
		is.NoErr(err)
	}
	testkit.Eventually(t, func() bool {
		s, err := b.info(t.Context())
		return err == nil && s.Messages == tenants+3 // with two items and a key
	})
	var made, deleted, asked atomic.Int32
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.") {
			asked.Add(1)
			switch {
			case strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.CREATE."):
				made.Add(1)
			case strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.DELETE."):
				deleted.Add(1)
			}
		}
		return v
	})
	is.Equal(len(outboxtest.Read(t, b, "acme", outbox.Query{Limit: 10}).Items), 2)
	is.Equal(made.Load(), int32(0))
	asked.Store(0)
	told, stop := outboxtest.Follow(t, b)
	testkit.Eventually(t, func() bool { return told.Times() == tenants })
	is.True(made.Load() < 10) // one, or some more where it was too slow
	is.True(asked.Load() < 100)
	stop()
	is.True(deleted.Load() > 0) // it goes with who followed, and not by itself
	testkit.Eventually(t, func() bool {
		s, err := js.Stream(t.Context(), b.stream.Name)
		return err == nil && s.CachedInfo().State.Consumers == 0
	})
}

// Who follows knows how many items were not taken, and since when.
func TestAge(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := open(t, natstest.Start(t, 1).URL(0), "test")
	began := time.Now().Add(-time.Second) // the broker's clock is another reading
	outboxtest.Put(t, b, "acme", "", "a", "b")
	outboxtest.Put(t, b, "other", "", "c")
	_, stop := outboxtest.Follow(t, b)
	defer stop()
	var first outbox.Stats
	testkit.Eventually(t, func() bool {
		b.Sweep(time.Now())
		first = b.Stats()
		return !first.Since.IsZero()
	})
	is.Equal(first.Untaken, 3)
	is.True(first.Since.After(began) && first.Since.Before(time.Now().Add(time.Second)))
	outboxtest.Put(t, b, "third", "", "d")
	testkit.Eventually(t, func() bool { return b.Stats().Untaken == 4 })
	is.Equal(b.Stats().Since, first.Since)
	outboxtest.Taken(t, b, "acme", outboxtest.Newest(t, b, "acme"))
	outboxtest.Taken(t, b, "other", outboxtest.Newest(t, b, "other"))
	testkit.Eventually(t, func() bool { return b.Stats().Untaken == 1 })
	is.True(b.Stats().Since.After(first.Since))
	outboxtest.Taken(t, b, "third", outboxtest.Newest(t, b, "third"))
	testkit.Eventually(t, func() bool { return b.Stats().Untaken == 0 })
	is.True(b.Stats().Since.IsZero())
	testkit.Eventually(t, func() bool { // nothing is known of tenants whose rows have faded
		b.Sweep(time.Now().Add(rowTTL + time.Minute))
		f := b.followed()
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.lines.Len() == 0
	})
}

// The oldest go while somebody reads who is among them: the page says where what is left begins,
// and has it. So it is where another run of places has begun after that.
func TestTheOldestGoWhileOneReads(t *testing.T) {
	t.Parallel()
	for _, runs := range []int{1, 2} {
		t.Run(fmt.Sprint(runs), func(t *testing.T) {
			is := is.New(t)
			broker := natstest.Start(t, 1)
			proxy := broker.Proxies(t)[0]
			trims, reads := open(t, broker.URL(0), "test"), open(t, proxy.URL(), "test")
			var names []string
			for i := range 10 {
				names = append(names, fmt.Sprint(i))
			}
			outboxtest.Put(t, trims, "acme", "", names...)
			if runs > 1 {
				outboxtest.Surely(t, func() error { return trims.Renew(t.Context()) })
				outboxtest.Put(t, trims, "acme", "", "another run's")
			}
			first := outboxtest.Read(t, trims, "acme", outbox.Query{Limit: 1}).Oldest
			left, err := trims.find(t.Context(), "acme", first+5)
			is.NoErr(err)
			purge := sync.OnceFunc(func() {
				_, err := trims.stream.Purge(context.Background(), trims.itemsSubject("acme"), left.seq)
				is.NoErr(err)
			})
			proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
				if !m.FromServer && strings.Contains(string(m.Data), `"`+reads.itemSubject("acme", first+3)+`"`) {
					purge() // before it is asked for
				}
				return v
			})
			page := outboxtest.Read(t, reads, "acme", outbox.Query{After: first + 2, Limit: 10})
			is.Equal(page.Oldest, first+5)
			is.True(page.Gap(first + 2))
			is.Equal(outboxtest.Names(page.Items), names[5:])
		})
	}
}

// What is kept after the end of a run of places, or after some that were lost, is read, whatever
// comes behind it.
func TestWhatFollowsALoss(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := open(t, natstest.Start(t, 1).URL(0), "test")
	outboxtest.Put(t, b, "acme", "", "a", "b")
	end := outboxtest.Newest(t, b, "acme")
	for _, name := range []string{"c", "d"} {
		outboxtest.Surely(t, func() error { return b.Renew(t.Context()) })
		outboxtest.Put(t, b, "acme", "", name)
	}
	page := outboxtest.Read(t, b, "acme", outbox.Query{After: end, Limit: 10})
	is.True(page.Gap(end))
	is.Equal(outboxtest.Names(page.Items), []string{"c"})

	outboxtest.Put(t, b, "acme", "", "e", "f")
	newest := outboxtest.Newest(t, b, "acme")
	_, err := b.stream.Purge(t.Context(), b.itemSubject("acme", newest-1), math.MaxInt64)
	is.NoErr(err)
	page = outboxtest.Read(t, b, "acme", outbox.Query{After: newest - 2, Limit: 10})
	is.True(page.Gap(newest - 2))
	is.Equal(outboxtest.Names(page.Items), []string{"f"})
}
