package outbox

import (
	"sync"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/outbox/outboxtest"
	"realtimehub/internal/testkit"
)

// A row that cannot be read is told of by whoever meets it. Of its tenant what comes before it is
// read, and all others go on.
func TestARowThatCannotBeRead(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	var mu sync.Mutex
	met := map[string]int{}
	times := func(tenant string) int {
		mu.Lock()
		defer mu.Unlock()
		return met[tenant]
	}
	b := open(t, natstest.Start(t, 1).URL(0), "test", func(c *Config) {
		c.Unread = func(tenant string, _ uint64, _ error) {
			mu.Lock()
			defer mu.Unlock()
			met[tenant]++
		}
	})
	put := func(subject string) {
		outboxtest.Surely(t, func() error { _, err := b.keepOne(t.Context(), fading(subject, []byte("odd"), rowTTL)); return err })
	}
	outboxtest.Put(t, b, "item", "", "a", "b")
	first := outboxtest.Read(t, b, "item", outbox.Query{Limit: 1}).Oldest
	put(b.itemSubject("item", first+1))
	page := outboxtest.Read(t, b, "item", outbox.Query{Limit: 10})
	is.Equal(outboxtest.Names(page.Items), []string{"a"})
	is.Equal(times("item"), 0)
	testkit.Eventually(t, func() bool { // a busy broker may not answer
		_, err := b.Read(t.Context(), "item", outbox.Query{After: first, Limit: 10})
		is.True(err != nil)
		return times("item") > 0
	})
	is.Equal(times("item"), 1)

	outboxtest.Put(t, b, "acme", "", "c")
	place := outboxtest.Newest(t, b, "acme")
	put(b.subject(kindHead, "head"))
	told, stop := outboxtest.Follow(t, b)
	defer stop()
	before := times("head")
	is.True(before > 0)
	is.True(told.Behind("acme", 1))
	put(b.subject(kindHead, "head"))
	testkit.Eventually(t, func() bool { return times("head") > before })
	before = times("head")
	outboxtest.Surely(t, func() error { return b.Renew(t.Context()) })
	is.True(times("head") > before)
	page = outboxtest.Read(t, b, "acme", outbox.Query{After: place, Limit: 1})
	is.True(page.Gap(place))
}
