package journal

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/broker/table"
	"realtimehub/internal/natstest"
)

// A replica hangs, and every first question of any replica goes to it, or all do: what is
// asked is answered all the same, and who asks next does not wait for it again.
func TestAReplicaHangs(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 3)
	cfg := settings
	cfg.Replicas = 3
	p := b.Proxies(t)[0]
	one := openAt(t, p.URL(), "one", cfg)
	kept, err := table.Open(t.Context(), one.nc, table.Config{
		Prefix: cfg.Prefix, Replicas: 3, Logger: cfg.Logger,
		Changed: func(context.Context, []string, uint64) error { return nil },
		Lost:    func(context.Context, string, bool) error { return nil },
	})
	is.NoErr(err)
	defer kept.Close()
	var places []uint64
	for i := range 100 {
		item := it("k", fmt.Sprint(i))
		one.append(item)
		places = append(places, item.Seq)
	}
	rows := make([]table.Row, 50)
	for i := range rows {
		rows[i] = table.Row{Name: fmt.Sprint(i), Data: []byte{byte(i)}}
	}
	last, err := kept.Put(t.Context(), "topic", "group", 0, rows, false)
	is.NoErr(err)

	p.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET.")
		return v
	})
	hangs := time.Now()
	for range 5 {
		var got []string
		is.NoErr(one.Read(t.Context(), "k", 0, places[99], func(list []Message) bool {
			for _, m := range list {
				got = append(got, string(m.Data))
			}
			return true
		}))
		is.Equal(len(got), 100)
		is.Equal(got[99], "99")
		span := one.spanOf("k")
		is.True(span.Oldest < places[0])
		n := 0
		is.NoErr(kept.Read(t.Context(), "topic", 0, last, func(rows []table.Row) error {
			n += len(rows)
			return nil
		}))
		is.Equal(n, 51) // with the group's own
		again := it("k", "7")
		one.append(again)
		is.True(again.Duplicate)
		is.Equal(string(again.First), "7")
	}
	t.Logf("5 times all in %v", time.Since(hangs))
}

// What is tried takes no place, and nothing that is kept goes.
func TestTriesAreNotKept(t *testing.T) {
	t.Parallel()
	brokers(t, func(t *testing.T, b *natstest.Broker, cfg Config) {
		is := is.New(t)
		one := open(t, b, 0, "one", cfg)
		one.append(it("k", "a"))
		await(t, func() bool {
			anchored := one.Journal.ready.kept.Get()
			before := one.stateNow()
			for range 20 {
				if err := one.tryHistory(t.Context()); err != nil {
					is.True(isBusy(err))
					return false
				}
			}
			after := one.stateNow()
			if one.Journal.ready.kept.Get() != anchored {
				return false // the broker was too slow for a try that takes no place
			}
			before.Now = after.Now
			is.Equal(after, before)
			return true
		})
	})
}

// What went well is believed for a while, and what never went is not.
func TestATryGrowsOld(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	var tried trial
	is.True(tried.fault() != nil)
	tried.went.Set(stream.Uptime() - believed - 1)
	is.True(tried.fault() != nil)
	tried.went.Set(stream.Uptime())
	is.NoErr(tried.fault())
}
