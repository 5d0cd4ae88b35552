package broker

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// On NATS a history is as any kind of Log is.
func TestLogOnNATS(t *testing.T) {
	t.Parallel()
	historytest.Run(t, historytest.Kind{Shared: true, Open: func(t *testing.T, limits history.Limits) history.Log {
		return join(t, natstest.Start(t, 1).URL(0), natstest.Prefix(), within(limits)).Log()
	}})
}

// One tenant's flood costs no other tenant an event, as any hub tells; the one who is past
// a bound hears that its oldest have expired, on all hubs.
func TestOnNATSTheLargestTenantPays(t *testing.T) {
	t.Parallel()
	for name, bounds := range map[string]struct {
		tenant, all int64
		cut         func(history.Stats) int64
	}{
		"past its own":     {2 << 20, 64 << 20, func(s history.Stats) int64 { return s.CutTenant }},
		"past all tenants": {64 << 20, 8 << 20, func(s history.Stats) int64 { return s.CutAll }},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			limits := testLimits
			limits.Bytes = bounds.tenant
			url, prefix := natstest.Start(t, 1).URL(0), natstest.Prefix()
			var logs testkit.Buffer
			enter := func() history.Log {
				return join(t, url, prefix, func(cfg *Config) {
					cfg.Limits, cfg.Disk, cfg.Logger = limits, bounds.all, slog.New(slog.NewTextHandler(&logs, nil))
				}).Log()
			}
			here, there := enter(), enter()
			const small = 50
			for i := range small {
				historytest.Persist(t, here, historytest.To(fmt.Sprint("small-", i), "1", event.ToTenant()))
			}
			first := historytest.To("large", "1", event.ToTenant())
			historytest.Persist(t, here, first)
			text := strings.Repeat("x", 40_000)
			var last *history.Entry
			for i := range 500 { // 20 MB, of which each would be enough to push out all others
				last = historytest.To("large", fmt.Sprintf(`"%d %s"`, i, text), event.ToTenant())
				historytest.Persist(t, here, last)
			}
			testkit.Eventually(t, func() bool { return bounds.cut(here.Stats())+bounds.cut(there.Stats()) > 0 })
			testkit.Eventually(t, func() bool { return here.Stats().Bytes <= min(bounds.tenant*5/4, bounds.all*7/8) })
			if bounds.all < bounds.tenant {
				testkit.Eventually(t, func() bool { return strings.Contains(logs.String(), "store is nearly full") })
			} else {
				is.True(!strings.Contains(logs.String(), "nearly full"))
			}
			for _, hub := range []history.Log{here, there} {
				for i := range small {
					tenant := fmt.Sprint("small-", i)
					begin, err := historytest.Answered(func() (history.Cursor, error) { return hub.Find(t.Context(), tenant, "", nil) })
					is.NoErr(err)
					is.Equal(begin.Seq, uint64(0))
					page, err := historytest.Answered(func() (history.Page, error) { return hub.Read(t.Context(), tenant, history.Query{}) })
					is.NoErr(err)
					is.Equal(historytest.Names(page.Entries), "1")
				}
				oldest, err := historytest.Answered(func() (history.Cursor, error) { return hub.Find(t.Context(), "large", first.Cursor.String(), nil) })
				is.Equal(err, history.ErrExpired)
				page, err := historytest.Answered(func() (history.Page, error) {
					return hub.Read(t.Context(), "large", history.Query{After: first.Cursor.Seq})
				})
				is.Equal(err, history.ErrExpired)
				is.Equal(page.Next, oldest)
				page, err = historytest.Answered(func() (history.Page, error) { return hub.Read(t.Context(), "large", history.Query{After: oldest.Seq}) })
				is.NoErr(err)
				is.True(len(page.Entries) > 10)
				is.Equal(page.Entries[len(page.Entries)-1].Cursor, last.Cursor)
				is.Equal(hub.Stats().Limit, bounds.all)
			}
		})
	}
}

// What one tenant has brought near from the broker is bounded before it is there, and
// pushes nothing out that others have near.
func TestNearIsShared(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	limits := testLimits
	limits.Total = 1 << 20
	log := join(t, natstest.Start(t, 1).URL(0), natstest.Prefix(), within(limits)).log
	text := strings.Repeat("x", 6000)
	var large []*history.Entry
	for i := range 300 { // three times what may be near
		large = append(large, historytest.To("large", fmt.Sprintf(`"%d %s"`, i, text), event.ToTenant()))
		historytest.Persist(t, log, large[i])
	}
	_, err := historytest.Answered(func() (history.Cursor, error) { return log.Attach(t.Context(), "small") })
	is.NoErr(err)
	_, err = historytest.Answered(func() (history.Cursor, error) { return log.Attach(t.Context(), "large") })
	is.NoErr(err)
	for i := range 8 {
		historytest.Persist(t, log, historytest.To("small", fmt.Sprintf(`"%d %s"`, i, text), event.ToTenant()))
	}
	page, err := historytest.Answered(func() (history.Page, error) { return log.Read(t.Context(), "large", history.Query{}) })
	is.NoErr(err)
	is.Equal(len(page.Entries), 300) // from the broker
	near := log.near.Stats()
	is.Equal(near.Entries, 8)            // all of small's, and none of large's
	is.True(near.Bytes < limits.Total/2) // nor is anything left of the attempt
	page, err = historytest.Answered(func() (history.Page, error) {
		return log.Read(t.Context(), "large", history.Query{After: large[279].Cursor.Seq})
	})
	is.NoErr(err)
	is.Equal(len(page.Entries), 20)
	near = log.near.Stats()
	is.Equal(near.Entries, 8+20) // of which there is room for some
	is.True(near.Bytes > (8+20)*6000)
	is.True(near.Bytes <= limits.Total)
	is.Equal(log.Stats().Memory, near.Bytes)
}
