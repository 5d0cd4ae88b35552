package outboxtest

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
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

// keys are of what is put without one: somebody who does not know whether it was, puts it again.
var keys atomic.Int64

// Put puts together what tells of somebody each, until it is certain that it was put.
func Put(t testing.TB, b outbox.Box, tenant, key string, names ...string) {
	t.Helper()
	if key == "" {
		key = fmt.Sprint("outboxtest ", keys.Add(1))
	}
	drafts := Drafts(names...)
	Surely(t, func() error { return b.Put(t.Context(), tenant, key, drafts) })
}

// Surely does something until there is no error, which a broker that is slow or away may have; for
// a minute at most. Any goroutine may call it.
func Surely(t testing.TB, do func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Read asks a query, until there is an answer.
func Read(t testing.TB, b outbox.Box, tenant string, q outbox.Query) (page outbox.Page) {
	t.Helper()
	Surely(t, func() (err error) {
		page, err = b.Read(t.Context(), tenant, q)
		return err
	})
	return page
}

// Taken says that a tenant's items were taken up to a place, until it is noted.
func Taken(t testing.TB, b outbox.Box, tenant string, place uint64) {
	t.Helper()
	Surely(t, func() error { return b.Taken(t.Context(), tenant, place) })
}

// Follow follows.
func Follow(t testing.TB, b outbox.Box) (told *Told, stop func()) {
	t.Helper()
	told = &Told{}
	Surely(t, func() (err error) {
		stop, err = b.Follow(t.Context(), told.More)
		return err
	})
	return told, stop
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
