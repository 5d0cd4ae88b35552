package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func always() bool { return true }

// isBusy says whether the broker has not answered in time, and is to be asked again.
func isBusy(err error) bool {
	return errors.Is(err, stream.ErrUnconfirmed) || errors.Is(err, stream.ErrStale) || errors.Is(err, context.DeadlineExceeded)
}

// bytesOf is what a key has in the stream as it can be read, and its first place; it reads
// again where the key loses something meanwhile.
func (u *user) bytesOf(key string) (bytes int64, first uint64) {
	for {
		bytes, first = 0, 0
		span, err := u.Span(u.t.Context(), key)
		if isBusy(err) {
			continue
		}
		if err != nil {
			u.t.Fatal(err)
		}
		err = u.Read(u.t.Context(), key, span.Oldest, span.Last, func(list []Message) bool {
			for _, m := range list {
				if first == 0 {
					first = m.Seq
				}
				bytes += int64(len(m.Data))
			}
			return true
		})
		if err == nil {
			return bytes, first
		}
		if _, gone := errors.AsType[*GoneError](err); !gone && !isBusy(err) {
			u.t.Fatal(err)
		}
	}
}

func data(i int) string { return fmt.Sprint(i, " ", strings.Repeat("x", 5000)) }

// fill appends to a key, some together.
func (u *user) fill(key string, from, n int) {
	for i := 0; i < n; i += 10 {
		var items []*Item
		for j := range 10 {
			items = append(items, &Item{Key: key, Data: []byte(data(from + i + j))})
		}
		testkit.Eventually(u.t, func() bool {
			err := u.Append(u.t.Context(), items)
			if errors.Is(err, ErrFull) || errors.Is(err, stream.ErrUnconfirmed) { // a busy machine's broker may be late
				return false
			}
			if err != nil {
				u.t.Error(err)
			}
			return true
		})
	}
}

// A key that is past its own bytes loses its oldest, and no other key anything; whoever
// reads it is told, in any process, and who is past the cut reads on.
func TestAKeyHasBytesOfItsOwn(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		cfg.Bytes, cfg.KeyBytes, cfg.PerKey = 64<<20, 1<<20, 0
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		one.KeepWithin(always)
		small := it("small", "first")
		one.append(small)
		head := one.attach("small")
		first := &Item{Key: "large", Data: []byte("first")}
		one.append(first)
		one.fill("large", 0, 400) // twice its bytes
		await(t, func() bool {
			bytes, _ := one.bytesOf("large")
			return bytes <= cfg.KeyBytes
		})
		one.stateNow()
		for _, u := range []*user{one, two} {
			is.Equal(u.dataOf("small", 0, head), []string{"first"})
			span := u.spanOf("small")
			is.Equal(span.Oldest, uint64(0)) // and it is known that nothing of it has gone
			var err error
			await(t, func() bool {
				err = u.Read(t.Context(), "large", first.Seq, span.Last, func([]Message) bool { return true })
				return !isBusy(err)
			})
			gone, ok := err.(*GoneError)
			is.True(ok)
			bytes, oldest := u.bytesOf("large")
			is.True(bytes <= cfg.KeyBytes && bytes > cfg.KeyBytes*3/4)
			is.True(oldest > gone.Oldest && gone.Oldest > first.Seq)
		}
	})
}

// state1 asks the leader once.
func (u *user) state1() error {
	_, err := u.state(u.t.Context())
	return err
}

// Past seven eighths of all there is the largest pays, before the broker drops the oldest
// of everybody; and nobody pays who has less than its share.
func TestTheLargestKeyPays(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		cfg.Bytes, cfg.KeyBytes, cfg.PerKey = 4<<20, 0, 0
		one, two := open(t, b, 0, "one", cfg), open(t, b, len(b.Servers)-1, "two", cfg)
		const keys = 50
		key := func(i int) string { return fmt.Sprint("small-", i) }
		for i := range keys {
			one.append(it(key(i), "first"), it(key(i), data(i)))
		}
		two.KeepWithin(always)
		one.KeepWithin(func() bool { return cfg.Replicas == 3 }) // two at once do no harm
		for i := range 20 {                                      // as fast as it goes
			one.fill([]string{"large", "larger"}[i/4%2], i*200, 200)
		}
		await(t, func() bool { return one.state1() == nil && one.bytes.Load() <= cfg.Bytes*7/8 })
		_, cut := two.Cut()
		_, by := one.Cut()
		is.True(cut+by > 0)
		t.Logf("%d of %d bytes are left", one.bytes.Load(), cfg.Bytes)
		is.True(one.bytes.Load() > cfg.Bytes*3/4 || cfg.Replicas == 3 && one.bytes.Load() > cfg.Bytes/2) // no more goes than has to; two at once may cut twice
		for i := range keys {
			span := one.spanOf(key(i))
			is.Equal(span.Oldest, uint64(0))
			bytes, first := one.bytesOf(key(i))
			is.True(first > 0 && bytes == int64(len("first")+len(data(i))))
		}
	})
}

// Who keeps the bounds and has heard of few of the messages yet, as where the server that
// tells of them is behind, does not know who the largest is: the small ones that it knows of
// do not pay.
func TestNobodyPaysWhileTheLargestIsNotKnown(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	cfg := settings
	cfg.Bytes, cfg.KeyBytes, cfg.PerKey = 4<<20, 0, 0
	b := natstest.Start(t, 1)
	p := b.Proxies(t)[0]
	one, keeper := open(t, b, 0, "one", cfg), openAt(t, p.URL(), "keeper", cfg)
	const keys = 110 // so that there is enough to begin to count
	key := func(i int) string { return fmt.Sprint("small-", i) }
	var counted, asked atomic.Int64
	told := make(chan struct{})
	p.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if strings.HasPrefix(m.Subject, "$JS.API.STREAM.INFO.") {
			asked.Add(1)
		}
		if m.FromServer && strings.HasPrefix(m.Reply, "$JS.ACK.") && counted.Add(1) > 2*keys {
			v.After = told
		}
		return v
	})
	for i := range keys {
		one.append(it(key(i), "first"), it(key(i), data(i)))
	}
	keeper.KeepWithin(always)
	await(t, func() bool { return counted.Load() >= 2*keys })
	for i := 0; one.bytes.Load() <= cfg.Bytes*7/8; i++ {
		one.append(it("large", data(i)))
		is.NoErr(one.state1())
	}
	await(t, func() bool { return keeper.bytes.Load() > cfg.Bytes*7/8 })
	before := asked.Load()
	await(t, func() bool { return asked.Load() > before+4 }) // it has seen that, and could have cut
	is.True(counted.Load() > 2*keys)                         // it was to be told of more, and was not
	close(told)
	await(t, func() bool { return one.state1() == nil && one.bytes.Load() <= cfg.Bytes*7/8 })
	for i := range keys {
		span := one.spanOf(key(i))
		is.Equal(span.Oldest, uint64(0))
	}
}

// Where each key has a single message, the largest pay with that: else nobody would, and
// nobody could say anything more.
func TestTheLargestKeyPaysWithItsOnlyMessage(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	cfg := settings
	cfg.Bytes, cfg.KeyBytes, cfg.PerKey = 2<<20, 0, 0
	one := open(t, natstest.Start(t, 1), 0, "one", cfg)
	one.KeepWithin(always)
	small := it("small", "first")
	one.append(small)
	for i := range 600 { // more than there is room for
		item := &Item{Key: fmt.Sprint("k", i), Data: []byte(data(i))}
		await(t, func() bool { return one.Append(t.Context(), []*Item{item}) == nil })
	}
	gone := 0 // of a busy broker Cut knows less than that
	for i := range 600 {
		if bytes, _ := one.bytesOf(fmt.Sprint("k", i)); bytes == 0 {
			gone++
		}
	}
	is.True(gone > 200)
	bytes, _ := one.bytesOf("small")
	is.Equal(bytes, int64(len("first")))
}

// What is published costs the broker one question, whoever keeps the bounds.
func TestToKeepBoundsCostsAPublishNothing(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	cfg := settings
	cfg.Bytes, cfg.KeyBytes, cfg.PerKey = 8<<20, 1<<20, 0
	one, two := open(t, b, 0, "one", cfg), open(t, b, 0, "two", cfg)
	two.KeepWithin(always)
	one.attach("k")
	one.fill("k", 0, 1000)
	await(t, func() bool { n, _ := two.Cut(); return n > 0 }) // it counts
	before, keeper := one.nc.Stats().OutMsgs, two.nc.Stats().OutMsgs
	start := time.Now()
	const n = 2000
	for i := range n {
		one.append(&Item{Key: "k", Data: []byte(fmt.Sprint(i))})
	}
	probes := uint64(time.Since(start)/probeEvery) + 1
	sent := one.nc.Stats().OutMsgs - before
	t.Logf("%d publishes: %d messages to the broker, of the keeper %d", n, sent, two.nc.Stats().OutMsgs-keeper)
	is.True(sent >= n && sent <= n+10*probes)
	is.True(two.nc.Stats().OutMsgs-keeper <= n/10+10*probes)
}

// However much one key is given, and though nobody keeps the bounds, what others have
// stays, and there is room for what they say.
func TestOneKeyLeavesRoom(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	cfg := settings
	cfg.Bytes, cfg.KeyBytes, cfg.PerKey = 8<<20, 0, 0
	one := open(t, b, 0, "one", cfg)
	one.KeepWithin(func() bool { return false })
	one.append(it("small", "first"))
	refused := 0
	for i := range 10_000 {
		err := one.Append(t.Context(), []*Item{{Key: "large", Data: []byte(data(i))}})
		if err != nil && !errors.Is(err, stream.ErrUnconfirmed) { // a busy machine's broker may be late
			is.True(errors.Is(err, ErrFull) && Refused(err))
			refused++
		}
		if i%1000 == 0 {
			one.append(it("small", fmt.Sprint(i, strings.Repeat("x", 1000))))
		}
	}
	is.True(refused > 5000)
	span := one.spanOf("small")
	is.Equal(span.Oldest, uint64(0))
	s := one.stateNow()
	is.True(s.Bytes > uint64(cfg.Bytes)*7/8 && s.Bytes < uint64(cfg.Bytes))
}
