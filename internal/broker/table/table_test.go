package table

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// tableUser is one process's table, and all that it was told.
type tableUser struct {
	*Table
	nc    *nats.Conn
	again int32 // reads that the broker was too busy for

	mu sync.Mutex
	// Guarded by mu.
	lives   []string
	lost    int
	changed []string
}

func openTable(t *testing.T, url string) *tableUser {
	t.Helper()
	return openTableOf(t, url, 1)
}

func openTableOf(t *testing.T, url string, replicas int) *tableUser {
	t.Helper()
	nc := natstest.Connect(t, url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	u := &tableUser{nc: nc}
	var err error
	u.Table, err = Open(t.Context(), nc, Config{
		Prefix: "test", Replicas: replicas, Age: time.Hour, Logger: slog.New(slog.DiscardHandler),
		Changed: func(_ context.Context, topics []string, _ uint64) error {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.changed = append(u.changed, topics...)
			return nil
		},
		Lost: func(_ context.Context, life string, known bool) error {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.lives = append(u.lives, life)
			if known {
				u.lost++
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Table.Close)
	return u
}

// rowsOf are n rows by name.
func rowsOf(n int) []Row {
	rows := make([]Row, n)
	for i := range rows {
		rows[i] = Row{Name: fmt.Sprint("row", i), Data: []byte("data")}
	}
	return rows
}

// read is all of a topic, by name.
func (u *tableUser) read(t *testing.T, topic string, after, until uint64) (names []string) {
	t.Helper()
	for {
		err := u.Read(t.Context(), topic, after, until, func(rows []Row) error {
			for _, r := range rows {
				if r.Topic != topic || r.Seq <= after {
					t.Error(r)
				}
				after = r.Seq
				if r.Name != "" {
					names = append(names, r.Name)
				}
			}
			return nil
		})
		if err == nil {
			return names
		}
		if !isBusy(err) {
			t.Fatal(err)
		}
		u.again++ // the broker is busy: on from there
	}
}

// However many rows there are, few questions have them read: the broker counts what is
// left at each direct get.
func TestManyRowsAreReadWithFewQuestions(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	u := openTable(t, proxy.URL())
	many, few := rowsOf(20_000), rowsOf(1000)
	u.fill(t, "other", few)
	last := u.fill(t, "k", many)
	var gets, all atomic.Int32
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		if !m.FromServer && m.Verb == "PUB" && strings.HasPrefix(m.Subject, "$JS.API.") {
			all.Add(1)
			if strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET.") {
				gets.Add(1)
			}
		}
		return natstest.Verdict{}
	})
	names := u.read(t, "k", 0, last)
	is.Equal(len(names), len(many))
	slices.Sort(names)
	is.Equal(len(slices.Compact(names)), len(many)) // each once
	is.True(gets.Load() <= 2*(1+u.again))
	is.True(all.Load() <= 12*(1+u.again)) // a consumer, and a few thousand at a time
	is.Equal(len(u.read(t, "other", 0, last)), len(few))
	js, err := jetstream.New(u.nc)
	is.NoErr(err)
	stream, err := js.Stream(t.Context(), "test_table")
	is.NoErr(err)
	for name := range stream.ConsumerNames(t.Context()).Name() {
		t.Error(name, "is left")
	}
}

// isBusy says whether the broker has not answered in time, and is to be asked again.
func isBusy(err error) bool {
	return errors.Is(err, stream.ErrUnconfirmed) || errors.Is(err, context.DeadlineExceeded)
}

// answered asks again while a broker that is slow does not answer.
func answered[T any](t *testing.T, ask func() (T, error)) T {
	t.Helper()
	return testkit.Answer(t, isBusy, ask)
}

// lookNow is Look.
func (u *tableUser) lookNow(t *testing.T) {
	t.Helper()
	answered(t, func() (none struct{}, err error) { return none, u.Look(t.Context()) })
}

// Put is the table's. A broker that was too slow to say so has kept the rows, or has not: it
// is asked again.
func (u *tableUser) Put(ctx context.Context, topic, group string, from uint64, rows []Row, empty bool) (uint64, error) {
	last, err := u.Table.Put(ctx, topic, group, from, rows, empty)
	unconfirmed := errors.Is(err, stream.ErrUnconfirmed)
	for errors.Is(err, stream.ErrUnconfirmed) {
		last, err = u.Table.Put(ctx, topic, group, from, rows, empty)
	}
	if unconfirmed && errors.Is(err, ErrConflict) {
		return u.Last(ctx, topic)
	}
	return last, err
}

// fill puts many rows, a group for as many as are kept at once, and returns the place of the
// last.
func (u *tableUser) fill(t *testing.T, topic string, rows []Row) (last uint64) {
	t.Helper()
	for some := range slices.Chunk(rows, stream.BatchLimit-1) {
		var err error
		if last, err = u.Put(t.Context(), topic, some[0].Name, 0, some, false); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// A part of many rows that is lost on its way is not passed over.
func TestAPartOfManyRowsIsLost(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	u := openTable(t, proxy.URL())
	last := u.fill(t, "k", rowsOf(4000))
	var n atomic.Int32
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		consumed := m.FromServer && strings.HasPrefix(m.Reply, "$JS.ACK.")
		return natstest.Verdict{Drop: consumed && n.Add(1) == 1000}
	})
	rows := 0
	after := uint64(0)
	count := func(some []Row) error {
		rows, after = rows+len(some), some[len(some)-1].Seq
		return nil
	}
	for tries := 0; ; tries++ {
		err := u.Read(t.Context(), "k", after, last, count)
		if err == nil {
			break
		}
		is.True(tries < 3)
	}
	is.Equal(rows, 4000+5) // and the groups' own
}

// A look tells of what has changed since the last, by the topics alone; of a table that was
// made anew or has lost its end it says so, to all who use it.
func TestLook(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two := openTable(t, b.URL(0)), openTable(t, b.URL(0))
	is.Equal(one.lives, two.lives)
	is.Equal(one.lost, 0)
	put := func(u *tableUser, topic string, from uint64) uint64 {
		last, err := u.Put(t.Context(), topic, "g", from, rowsOf(2), false)
		is.NoErr(err)
		return last
	}
	from := put(one, "a", 0) - 2
	put(one, "b", 0)
	two.lookNow(t)
	is.Equal(two.changed, []string{"a", "b"})
	two.lookNow(t)
	is.Equal(two.changed, []string{"a", "b"}) // nothing is new
	put(one, "a", from)
	two.lookNow(t)
	is.Equal(two.changed, []string{"a", "b", "a"})
	one.lookNow(t)

	lose := b.Snapshot(t) // all that follows
	testkit.Eventually(t, func() bool { return one.Look(t.Context()) == nil && two.Look(t.Context()) == nil })
	put(one, "c", 0)
	one.lookNow(t)
	two.lookNow(t)
	lose()
	b.Restart(t, 0)
	for _, u := range []*tableUser{one, two} {
		testkit.Eventually(t, func() bool { return u.Look(t.Context()) == nil })
		is.Equal(u.lost, 1)
		is.Equal(len(u.lives), 2)
		is.True(u.lives[0] != u.lives[1]) // places are given again
		is.Equal(len(u.read(t, "c", 0, 1)), 0)
		is.Equal(len(u.read(t, "a", 0, 1)), 2)
	}

	js, err := jetstream.New(one.nc)
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), "test_table"))
	for _, u := range []*tableUser{one, two} {
		u.lookNow(t)
		is.Equal(u.lost, 2)
		is.True(u.lives[2] != u.lives[1])
	}
	is.Equal(one.lives[2], two.lives[2])
	put(two, "a", 0) // it begins anew
}

// A place that a table does not have is not taken for one that was read.
func TestAPlaceThatIsNot(t *testing.T) {
	is := is.New(t)
	u := openTable(t, natstest.Start(t, 1).URL(0))
	last, err := u.Put(t.Context(), "k", "g", 0, rowsOf(3), false)
	is.NoErr(err)
	all, err := u.Put(t.Context(), "other", "g", 0, rowsOf(3), false)
	is.NoErr(err)
	is.Equal(len(u.read(t, "k", 0, all)), 3)
	is.Equal(len(u.read(t, "k", last, all)), 0)
	err = u.Read(t.Context(), "k", 0, all+1, func([]Row) error { return nil })
	is.True(errors.Is(err, stream.ErrStale))
}

// A table that is deleted is made anew, which is told: it is not one of which nobody knows.
func TestATableThatHasGoneIsMadeAnew(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	nc := b.Connect(t, 0)
	gone := 0
	table, err := Open(t.Context(), nc, Config{
		Prefix: "test", Replicas: 1, Logger: slog.New(slog.DiscardHandler),
		Changed: func(context.Context, []string, uint64) error { return nil },
		Lost: func(_ context.Context, _ string, known bool) error {
			if known {
				gone++
			}
			return nil
		},
	})
	is.NoErr(err)
	defer table.Close()
	put := func() {
		_, err := (&tableUser{Table: table}).Put(t.Context(), "topic", "group", 0, []Row{{Name: "name", Data: []byte("x")}}, false)
		is.NoErr(err)
	}
	put()
	js, err := jetstream.New(nc)
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), "test_table"))
	last := func() uint64 {
		return answered(t, func() (uint64, error) { return table.Last(t.Context(), "topic") })
	}
	is.Equal(last(), uint64(0))
	is.Equal(gone, 1)
	put()
	is.True(last() > 0)
	is.Equal(gone, 1)
}
