package outboxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/outbox"
	"realtimehub/internal/testkit"
)

// Kind is one kind of Box.
type Kind struct {
	// Open makes an empty one, until the test ends.
	Open func(*testing.T) outbox.Box
}

// Run holds a kind to what the program expects of any.
func Run(t *testing.T, k Kind) {
	for _, c := range []struct {
		name string
		test func(*testing.T, outbox.Box)
	}{
		{"order", ordering}, {"items", keeping}, {"pages", paging}, {"gaps", missing}, {"refused", refusing},
		{"keys", recognizing}, {"many", many}, {"together", together}, {"follow", following}, {"lead", leading},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, k.Open(t)) })
	}
}

// Each tenant has an order of its own, without gaps.
func ordering(t *testing.T, b outbox.Box) {
	is := is.New(t)
	before := outbox.First(time.Now())
	for i := range 10 {
		Put(t, b, "acme", "", fmt.Sprint("a", i), fmt.Sprint("b", i))
		Put(t, b, "other", "", "o")
	}
	all := Read(t, b, "acme", outbox.Query{Limit: 100})
	is.Equal(len(all.Items), 20)
	is.Equal(Names(all.Items)[:4], []string{"a0", "b0", "a1", "b1"})
	InOrder(t, all.Items)
	is.Equal(all.Items[0].Seq, all.Oldest)
	is.Equal(all.Items[19].Seq, all.Newest)
	is.True(all.Oldest >= before) // past all that were given in another life
	is.Equal(len(ReadAll(t, b, "other", 3)), 10)
	is.Equal(Read(t, b, "nobody", outbox.Query{Limit: 1}), outbox.Page{})
}

// An item is what its draft was, with its tenant and its place.
func keeping(t *testing.T, b outbox.Box) {
	is := is.New(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	drafts := []outbox.Draft{
		{Type: outbox.TypeUndelivered, At: at, Data: json.RawMessage(`{"event":{"id":"a b\nc"}}`)}, {Type: outbox.TypePresence, At: at, Data: json.RawMessage(`{}`)},
	}
	Surely(t, func() error { return b.Put(t.Context(), "acme", "k", drafts) })
	items := ReadAll(t, b, "acme", 10)
	seq := items[0].Seq
	is.Equal(string(items[0].AppendJSON(nil)), fmt.Sprintf(`{"type":"event.undelivered","timestamp":"2026-01-02T03:04:05.006Z","data":{"tenantId":"acme","seq":%d,"event":{"id":"a b\nc"}}}`, seq))
	is.Equal(string(items[1].AppendJSON(nil)), fmt.Sprintf(`{"type":"presence.changed","timestamp":"2026-01-02T03:04:05.006Z","data":{"tenantId":"acme","seq":%d,"version":%[1]d}}`, seq+1))
	is.Equal(items[0].Tenant, "acme")
}

// A page has no more than was asked for, but one item in any case.
func paging(t *testing.T, b outbox.Box) {
	is := is.New(t)
	for i := range 20 {
		Put(t, b, "acme", "", fmt.Sprint("number", 10+i))
	}
	all := Read(t, b, "acme", outbox.Query{Limit: 100}).Items
	is.Equal(len(all), 20)
	rest := Read(t, b, "acme", outbox.Query{After: all[17].Seq, Limit: 100})
	is.Equal(rest.Items, all[18:])
	is.Equal(rest.Next(all[17].Seq), rest.Newest)
	is.Equal(rest.Oldest, all[0].Seq)
	is.Equal(Read(t, b, "acme", outbox.Query{Limit: 3}).Items, all[:3])
	bytes := len(all[0].Data)
	is.Equal(Read(t, b, "acme", outbox.Query{Limit: 100, Bytes: 2*bytes + 1}).Items, all[:2])
	is.Equal(Read(t, b, "acme", outbox.Query{Limit: 100, Bytes: 2 * bytes}).Items, all[:2])
	is.Equal(Read(t, b, "acme", outbox.Query{Limit: 100, Bytes: 1}).Items, all[:1])
	none := Read(t, b, "acme", outbox.Query{After: rest.Newest, Limit: 100})
	is.Equal(none, outbox.Page{Oldest: all[0].Seq, Newest: all[19].Seq})
	is.Equal(none.Next(rest.Newest), rest.Newest)
	for _, limit := range []int{1, 7, 100} {
		is.Equal(ReadAll(t, b, "acme", limit), all)
	}
}

// Whoever asks for what comes after a place that was not given, or is not kept, is told so, and
// reads what there is.
func missing(t *testing.T, b outbox.Box) {
	is := is.New(t)
	Put(t, b, "acme", "", "a", "b")
	all := Read(t, b, "acme", outbox.Query{Limit: 10})
	for _, after := range []uint64{1, all.Oldest - 2, all.Newest + 1, 1 << 63} {
		page := Read(t, b, "acme", outbox.Query{After: after, Limit: 10})
		is.True(page.Gap(after))
		is.Equal(page, all)
	}
	for _, after := range []uint64{0, all.Oldest - 1, all.Oldest, all.Newest} {
		page := Read(t, b, "acme", outbox.Query{After: after, Limit: 10})
		is.True(!page.Gap(after))
	}
	unknown := Read(t, b, "nobody", outbox.Query{After: 5, Limit: 10})
	is.True(unknown.Gap(5))
}

// Nothing is put of drafts of which one is none, and their key is not used up.
func refusing(t *testing.T, b outbox.Box) {
	is := is.New(t)
	is.True(b.Put(t.Context(), "acme", "k", []outbox.Draft{Draft("a"), {Type: outbox.TypePresence}}) != nil)
	is.NoErr(b.Put(t.Context(), "acme", "k", nil))
	is.Equal(len(Read(t, b, "acme", outbox.Query{Limit: 10}).Items), 0)
	Put(t, b, "acme", "k", "a")
	is.Equal(Names(ReadAll(t, b, "acme", 10)), []string{"a"})
}

// What is put again with its key is not put again.
func recognizing(t *testing.T, b outbox.Box) {
	is := is.New(t)
	long := strings.Repeat("long", 500)
	for range 3 {
		Put(t, b, "acme", "one", "a", "b")
		Put(t, b, "acme", "two * > . ü", "c")
		Put(t, b, "acme", long+"1", "d")
		Put(t, b, "acme", long+"2", "e")
		Put(t, b, "other", "one", "f")
		Put(t, b, "acme", "one", "something else")
	}
	for range 2 { // without a key, each time anew
		before := Newest(t, b, "acme")
		Surely(t, func() error {
			if err := b.Put(t.Context(), "acme", "", Drafts("g")); err != nil && Newest(t, b, "acme") == before {
				return err
			}
			return nil
		})
	}
	is.Equal(Names(ReadAll(t, b, "acme", 10)), []string{"a", "b", "c", "d", "e", "g", "g"})
	is.Equal(Names(ReadAll(t, b, "other", 10)), []string{"f"})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { Put(t, b, "acme", "at once", "h", "i") })
	}
	wg.Wait()
	is.Equal(Names(ReadAll(t, b, "acme", 10))[7:], []string{"h", "i"})
}

// However many are put together, they are in order, and are not put again.
func many(t *testing.T, b outbox.Box) {
	is := is.New(t)
	var names []string
	for i := range 2500 {
		names = append(names, fmt.Sprint(i))
	}
	for range 2 {
		Put(t, b, "acme", "k", names...)
	}
	all := ReadAll(t, b, "acme", 700)
	InOrder(t, all)
	is.Equal(Names(all), names)
	testkit.Eventually(t, func() bool { return b.Stats().Items == 2500 })
}

// However many put at once, each has its items beside each other, and in its order.
func together(t *testing.T, b outbox.Box) {
	is := is.New(t)
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := range 20 {
				name := fmt.Sprint(p, " ", i)
				Put(t, b, "acme", name, name, name+"'")
			}
		})
	}
	wg.Wait()
	all := ReadAll(t, b, "acme", 33)
	is.Equal(len(all), 320)
	InOrder(t, all)
	next := map[int]int{}
	for pair := range slices.Chunk(Names(all), 2) {
		var p, i int
		fmt.Sscan(pair[0], &p, &i)
		is.Equal(pair[1], pair[0]+"'")
		is.Equal(i, next[p])
		next[p]++
	}
}

// A follower is told of what was not taken, first of what there is, then of what comes; and not
// any more once it has stopped. What was taken is known to the next.
func following(t *testing.T, b outbox.Box) {
	is := is.New(t)
	Put(t, b, "acme", "", "a", "b")
	Put(t, b, "other", "", "c")
	Taken(t, b, "other", Newest(t, b, "other"))
	Taken(t, b, "nobody", 5)
	told, stop := Follow(t, b)
	testkit.Eventually(t, func() bool { return told.Behind("acme", 2) })
	Put(t, b, "other", "", "d", "e")
	testkit.Eventually(t, func() bool { return told.Behind("other", 2) })
	newest := Newest(t, b, "acme")
	Taken(t, b, "acme", newest-1)
	Taken(t, b, "acme", newest-2) // which it knows
	Put(t, b, "acme", "", "f")
	testkit.Eventually(t, func() bool { return told.Behind("acme", 2) })
	testkit.Eventually(t, func() bool { return b.Stats().Untaken == 4 })
	stop()
	n := told.Times()
	Put(t, b, "acme", "", "g")
	again, stopAgain := Follow(t, b)
	testkit.Eventually(t, func() bool { return again.Behind("acme", 3) && again.Behind("other", 2) })
	is.Equal(told.Times(), n)
	Taken(t, b, "acme", newest+100) // which nobody was given
	testkit.Eventually(t, func() bool { return b.Stats().Untaken == 2 })
	Put(t, b, "acme", "", "h")
	testkit.Eventually(t, func() bool { return again.Behind("acme", 1) })
	stopAgain()
	Put(t, b, "new", "", "i")
	third, stopThird := Follow(t, b)
	defer stopThird()
	testkit.Eventually(t, func() bool { return third.Behind("acme", 1) && third.Behind("new", 1) })
}

// Whoever leads does so until it ends, and Lead returns after that.
func leading(t *testing.T, b outbox.Box) {
	is := is.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	led, over, ended := make(chan struct{}), false, make(chan struct{})
	go func() {
		defer close(ended)
		b.Lead(ctx, func(ctx context.Context) {
			close(led)
			<-ctx.Done()
			over = true
		})
	}()
	<-led
	cancel()
	<-ended
	is.True(over)
}
