package journal

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// A replica hangs, and every first question of any replica goes to it, or all do: what is
// asked is answered all the same, and who asks next does not wait for it again.
func TestAReplicaHangs(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 3)
	cfg := settings
	cfg.Replicas = 3
	p := b.Proxies(t)[0]
	one := openAt(t, p.URL(), "one", cfg)
	table, err := OpenTable(t.Context(), one.nc, cfg.Prefix, 3, 0, cfg.Logger)
	is.NoErr(err)
	defer table.Close()
	var places []uint64
	for i := range 100 {
		item := it("k", fmt.Sprint(i))
		one.append(item)
		places = append(places, item.Seq)
	}
	rows := make([]Row, 50)
	for i := range rows {
		rows[i] = Row{Name: fmt.Sprint(i), Data: []byte{byte(i)}}
	}
	last, err := table.Put(t.Context(), "topic", "group", 0, rows)
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
		span, err := one.Span(t.Context(), "k")
		is.NoErr(err)
		is.True(span.Oldest < places[0])
		n := 0
		after, err := table.Read(t.Context(), "topic", 0, last, func(rows []Row) { n += len(rows) })
		is.NoErr(err)
		is.Equal(n, 51) // with the group's own
		is.Equal(after, last)
		again := it("k", "7")
		one.append(again)
		is.True(again.Duplicate)
		is.Equal(string(again.First), "7")
	}
	t.Logf("5 times all in %v", time.Since(hangs))
}
