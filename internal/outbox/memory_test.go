package outbox

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/quota"
	"realtimehub/internal/testkit"
)

// draft tells of somebody, with so many bytes of text.
func draft(name string, bytes int) Draft {
	return Draft{Type: TypePresence, At: time.Now(), Data: json.RawMessage(`{"profile":"` + name + strings.Repeat("x", bytes) + `"}`)}
}

func put(t testing.TB, m *Memory, tenant, key string, drafts ...Draft) {
	t.Helper()
	if err := m.Put(t.Context(), tenant, key, drafts); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, m *Memory, tenant string, q Query) Page {
	t.Helper()
	page, err := m.Read(t.Context(), tenant, q)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// names are whom the items of a page tell of, up to the first x.
func names(p Page) (list []string) {
	for _, item := range p.Items {
		var data struct{ Profile string }
		json.Unmarshal(item.Data, &data)
		name, _, _ := strings.Cut(data.Profile, "x")
		list = append(list, name)
	}
	return list
}

// An item says where it belongs, and has what its draft had.
func TestAnItemAsServicesSeeIt(t *testing.T) {
	is := is.New(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	item, err := (&Draft{Type: TypeUndelivered, At: at, Data: json.RawMessage(`{"event":{"id":"1"}}`)}).Place("acme", 7)
	is.NoErr(err)
	is.Equal(string(item.AppendJSON(nil)), `{"type":"event.undelivered","timestamp":"2026-01-02T03:04:05.006Z","data":{"tenantId":"acme","seq":7,"event":{"id":"1"}}}`)
	item, err = (&Draft{Data: json.RawMessage(`{}`)}).Place("acme", 7)
	is.NoErr(err)
	is.Equal(string(item.Data), `{"tenantId":"acme","seq":7}`)
	item, err = (&Draft{Type: TypePresence, Data: json.RawMessage(`{"status":"away"}`)}).Place("acme", 7)
	is.NoErr(err)
	is.Equal(string(item.Data), `{"tenantId":"acme","seq":7,"version":7,"status":"away"}`)
	for _, data := range []string{"", "{", "1", "[]", "null"} {
		_, err = (&Draft{Data: json.RawMessage(data)}).Place("acme", 7)
		is.Equal(err, errNoObject)
	}
}

// What is put again with its key is not put again, for as long as it is kept.
func TestAKeyIsKnownAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		m := NewMemory(MemoryConfig{})
		for range 3 {
			put(t, m, "acme", "one", draft("a", 0), draft("b", 0))
			put(t, m, "acme", "two", draft("c", 0))
			put(t, m, "other", "one", draft("d", 0))
		}
		put(t, m, "acme", "", draft("e", 0))
		put(t, m, "acme", "", draft("f", 0))
		is.Equal(names(read(t, m, "acme", Query{Limit: 100})), []string{"a", "b", "c", "e", "f"})
		is.Equal(names(read(t, m, "other", Query{Limit: 100})), []string{"d"})
		time.Sleep(TTL)
		put(t, m, "acme", "one", draft("a", 0))
		is.Equal(names(read(t, m, "acme", Query{Limit: 100})), []string{"a"})
	})
}

// What is too old goes, and its places are not given again.
func TestOldItemsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		held := quota.New[string](1<<20, 1)
		m := NewMemory(MemoryConfig{Bytes: 1 << 20, Held: held})
		put(t, m, "acme", "", draft("a", 0))
		first := read(t, m, "acme", Query{Limit: 1}).Items[0].Seq
		time.Sleep(TTL / 2)
		put(t, m, "acme", "", draft("b", 0))
		time.Sleep(TTL / 2)
		page := read(t, m, "acme", Query{After: first, Limit: 10})
		is.Equal(names(page), []string{"b"})
		is.True(!page.Gap(first))    // it had a
		is.True(page.Gap(first - 1)) // it had not
		is.True(!page.Gap(0))        // it has asked for what there is
		is.True(page.Gap(first + 2)) // nobody was given that
		time.Sleep(TTL / 2)
		m.Sweep(time.Now())
		is.Equal(m.Stats(), Stats{Bytes: held.Total(), Limit: 1 << 20})
		page = read(t, m, "acme", Query{After: first, Limit: 10})
		is.True(page.Gap(first))
		is.Equal(page.Next(first), first+1)
		put(t, m, "acme", "", draft("c", 0))
		is.Equal(read(t, m, "acme", Query{Limit: 1}).Items[0].Seq, first+2)
		time.Sleep(quietTTL)
		m.Sweep(time.Now())
		is.Equal(held.Total(), int64(0)) // nothing is known of the tenant any more
		put(t, m, "acme", "", draft("d", 0))
		page = read(t, m, "acme", Query{After: first + 2, Limit: 10})
		is.True(page.Gap(first + 2)) // nobody knows that there was nothing
		is.Equal(names(page), []string{"d"})
	})
}

// A service that comes back to a hub which has begun anew is told so, however much was there.
func TestAnotherLifeIsAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		m := NewMemory(MemoryConfig{})
		for range 1000 {
			put(t, m, "acme", "", draft("a", 0))
		}
		place := read(t, m, "acme", Query{Limit: 1}).Newest
		time.Sleep(time.Second)
		m = NewMemory(MemoryConfig{})
		page := read(t, m, "acme", Query{After: place, Limit: 10})
		is.True(page.Gap(place))
		is.Equal(page.Next(place), uint64(0))
		for range 2000 {
			put(t, m, "acme", "", draft("b", 0))
		}
		page = read(t, m, "acme", Query{After: place, Limit: 10})
		is.True(page.Gap(place))
		is.Equal(len(page.Items), 10)
	})
}

// All tenants have what they may have together: who has most loses its oldest, and it is counted.
func TestBoundedMemory(t *testing.T) {
	is := is.New(t)
	const limit = 256 << 10
	held := quota.New[string](0, 1)
	m := NewMemory(MemoryConfig{Bytes: limit, Held: held})
	put(t, m, "small", "k", draft("s", 0))
	for i := range 2000 {
		put(t, m, "large", fmt.Sprint("key", i), draft(fmt.Sprint(i), 200))
		is.True(m.Stats().Bytes <= limit)
		is.Equal(m.Stats().Bytes, held.Total())
	}
	stats := m.Stats()
	is.True(stats.Cut > 1000)
	is.Equal(stats.Items, 2001-int(stats.Cut))
	is.Equal(stats.Untaken, stats.Items)
	is.Equal(names(read(t, m, "small", Query{Limit: 10})), []string{"s"})
	page := read(t, m, "large", Query{Limit: 1000})
	is.Equal(page.Items[len(page.Items)-1].Seq, page.Newest)
	is.True(page.Gap(page.Oldest - 2))
	put(t, m, "huge", "", draft("h", 2*limit)) // which has no room at all
	is.True(m.Stats().Bytes <= limit)
	is.Equal(names(read(t, m, "small", Query{Limit: 10})), []string{"s"})
}

// Tenants without items are forgotten rather than others' items.
func TestTenantsAreForgottenForItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		m := NewMemory(MemoryConfig{Bytes: 50 * (listBytes + 16)})
		for i := range 100 {
			put(t, m, fmt.Sprintf("t%02d", i), "", draft("a", 0))
			time.Sleep(time.Second)
			m.Sweep(time.Now().Add(TTL))
		}
		is.True(m.tenants.Len() <= 50)
		is.True(m.Stats().Bytes <= m.limit)
		is.Equal(m.Stats().Cut, int64(0))
	})
}

// A place is given once, also to a tenant that was forgotten a moment ago.
func TestPlacesAreGivenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where no time goes by
		is := is.New(t)
		m := NewMemory(MemoryConfig{Bytes: 100})
		last := uint64(0)
		for range 100 {
			var told uint64
			stop, err := m.Follow(t.Context(), func(_ string, _, newest uint64) { told = newest })
			is.NoErr(err)
			put(t, m, "acme", "", draft("a", 0)) // for which there is no room, nor for its tenant
			stop()
			is.True(told > last)
			last = told
		}
		is.Equal(m.Stats().Cut, int64(100))
	})
}

// What is counted is what is taken.
func TestTheBytesAreReal(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	is := is.New(t)
	before := testkit.LiveHeap()
	many := NewMemory(MemoryConfig{})
	for i := range 20_000 {
		put(t, many, fmt.Sprint("tenant", i), "", draft("a", 0))
	}
	counted, took := many.Stats().Bytes, testkit.LiveHeap()-before
	t.Log("of 20,000 tenants: counted", counted, "took", took)
	is.True(float64(took) < 1.1*float64(counted))
	is.True(float64(counted) < 1.6*float64(took))
	runtime.KeepAlive(many)
	for _, n := range []int{0, 100, 3000} {
		before := testkit.LiveHeap()
		m := NewMemory(MemoryConfig{})
		for i := range 200 {
			tenant := fmt.Sprint("tenant", i)
			for k := range 1 + 20_000/(n+100) {
				put(t, m, tenant, fmt.Sprint(tenant, "/", k), draft("a", n))
			}
		}
		counted, took := m.Stats().Bytes, testkit.LiveHeap()-before
		t.Log(n, "bytes: counted", counted, "took", took)
		is.True(float64(took) < 1.1*float64(counted))
		is.True(float64(counted) < 1.6*float64(took))
		for _, l := range m.tenants.All() {
			m.mu.Lock()
			m.dropLocked(l, len(l.entries)*9/10)
			m.mu.Unlock()
		}
		counted, took = m.Stats().Bytes, testkit.LiveHeap()-before
		t.Log("a tenth of it: counted", counted, "took", took)
		is.True(float64(took) < 1.3*float64(counted)+100_000)
		runtime.KeepAlive(m)
	}
}

// A follower is told of what was not taken, first of what there is, then of what comes.
func TestFollow(t *testing.T) {
	is := is.New(t)
	m := NewMemory(MemoryConfig{})
	put(t, m, "acme", "", draft("a", 0), draft("b", 0))
	put(t, m, "other", "", draft("c", 0))
	seq := func(tenant string) uint64 { return read(t, m, tenant, Query{Limit: 1}).Newest }
	is.NoErr(m.Taken(t.Context(), "other", seq("other")))
	is.NoErr(m.Taken(t.Context(), "nobody", 5))
	var told []string
	stop, err := m.Follow(t.Context(), func(tenant string, taken, newest uint64) {
		told = append(told, fmt.Sprint(tenant, " ", newest-taken))
	})
	is.NoErr(err)
	is.Equal(told, []string{"acme 2"})
	put(t, m, "other", "", draft("d", 0))
	is.NoErr(m.Taken(t.Context(), "acme", seq("acme")-1))
	is.NoErr(m.Taken(t.Context(), "acme", seq("acme")-2)) // which it knows
	put(t, m, "acme", "", draft("e", 0))
	is.Equal(told, []string{"acme 2", "other 1", "acme 2"})
	is.Equal(m.Stats().Untaken, 3)
	stop()
	put(t, m, "acme", "", draft("f", 0))
	is.Equal(len(told), 3)
	is.NoErr(m.Taken(t.Context(), "acme", seq("acme")+100)) // which nobody was given
	put(t, m, "acme", "", draft("g", 0))
	is.Equal(m.Stats().Untaken, 2)
}

// The age is that of the oldest item that was not taken.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		m := NewMemory(MemoryConfig{})
		is.True(m.Stats().Since.IsZero())
		put(t, m, "acme", "", draft("a", 0))
		time.Sleep(time.Minute)
		at := time.Now()
		put(t, m, "acme", "", draft("b", 0))
		is.NoErr(m.Taken(t.Context(), "acme", read(t, m, "acme", Query{Limit: 1}).Oldest))
		is.Equal(m.Stats().Since, at)
	})
}
