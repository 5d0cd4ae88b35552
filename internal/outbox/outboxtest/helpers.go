package outboxtest

import (
	"encoding/json"
	"testing"
	"time"

	"realtimehub/internal/outbox"
)

// Draft tells of somebody.
func Draft(name string) outbox.Draft {
	return outbox.Draft{Type: outbox.TypePresence, At: time.Now(), Data: json.RawMessage(`{"profile":"` + name + `"}`)}
}

// Drafts tell of somebody each.
func Drafts(names ...string) (list []outbox.Draft) {
	for _, name := range names {
		list = append(list, Draft(name))
	}
	return list
}

// Put puts together what tells of somebody each.
func Put(t testing.TB, b outbox.Box, tenant, key string, names ...string) {
	t.Helper()
	if err := b.Put(t.Context(), tenant, key, Drafts(names...)); err != nil {
		t.Fatal(err)
	}
}

// Read asks a query.
func Read(t testing.TB, b outbox.Box, tenant string, q outbox.Query) outbox.Page {
	t.Helper()
	page, err := b.Read(t.Context(), tenant, q)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// ReadAll reads all items of a tenant, page by page, of which each goes on where the one before
// ended.
func ReadAll(t testing.TB, b outbox.Box, tenant string, limit int) (items []outbox.Item) {
	t.Helper()
	for after := uint64(0); ; {
		page := Read(t, b, tenant, outbox.Query{After: after, Limit: limit})
		if page.Gap(after) {
			t.Fatalf("there is a gap after %d: %d to %d", after, page.Oldest, page.Newest)
		}
		if len(page.Items) == 0 {
			return items
		}
		items = append(items, page.Items...)
		after = page.Next(after)
	}
}

// Newest is the last place that a tenant was given.
func Newest(t testing.TB, b outbox.Box, tenant string) uint64 {
	t.Helper()
	return Read(t, b, tenant, outbox.Query{Limit: 1}).Newest
}

// Names are whom items tell of.
func Names(items []outbox.Item) (names []string) {
	for _, item := range items {
		var data struct{ Profile string }
		json.Unmarshal(item.Data, &data)
		names = append(names, data.Profile)
	}
	return names
}

// InOrder fails a test in which the places of items do not follow each other.
func InOrder(t testing.TB, items []outbox.Item) {
	t.Helper()
	for i := range items {
		if items[i].Seq != items[0].Seq+uint64(i) {
			t.Fatalf("the place after %d is %d", items[i-1].Seq, items[i].Seq)
		}
	}
}
