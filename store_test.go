package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// logKind is one kind of Log; open makes an empty one.
type logKind struct {
	name string
	open func(t *testing.T, limits history.Limits) history.Log
}

var logKinds = []logKind{
	{"memory", func(_ *testing.T, limits history.Limits) history.Log { return history.NewMemory(limits) }},
	{"nats", func(t *testing.T, limits history.Limits) history.Log {
		return joinBroker(t, theBroker(t), 0, newPrefix(), limits).Log()
	}},
}

// anyLog runs a test with each kind of Log.
func anyLog(t *testing.T, limits history.Limits, test func(t *testing.T, l *logUser)) {
	for _, kind := range logKinds {
		t.Run(kind.name, func(t *testing.T) {
			l := &logUser{T: t, is: is.New(t), Log: kind.open(t, limits), got: map[string][]*history.Entry{}, parts: map[string][]int{}}
			l.Follow(l)
			l.attach("acme")
			test(t, l)
		})
	}
}

// logUser appends, and collects what it is handed as a Sink.
type logUser struct {
	*testing.T
	history.Log
	is *is.I

	mu sync.Mutex
	// Guarded by mu.
	got     map[string][]*history.Entry
	parts   map[string][]int // how many were handed over together
	flushed int
}

func (l *logUser) Deliver(tenant string, entries []*history.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got[tenant] = append(l.got[tenant], entries...)
	l.parts[tenant] = append(l.parts[tenant], len(entries))
}

func (l *logUser) Prepare(string, []*history.Entry) {}
func (l *logUser) Quiet(string, history.Cursor)     {}
func (l *logUser) Lost(string, history.Cursor)      {}

func (l *logUser) Flush(string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed++
}

// attach asks to be told of a tenant.
func (l *logUser) attach(tenant string) history.Cursor {
	l.Helper()
	head, err := l.Attach(l.Context(), tenant)
	l.is.NoErr(err)
	return head
}

func (l *logUser) add(entries ...*history.Entry) {
	l.Helper()
	for _, e := range entries {
		e.Event.Timestamp = time.Now()
		e.Envelope = e.Event.Seal()
	}
	if err := l.Append(l.Context(), entries); err != nil {
		l.Error(err)
	}
}

// entryTo is an entry whose payload is its name.
func entryTo(tenant, name string, target event.Target) *history.Entry {
	return &history.Entry{Event: &event.Event{ID: name, TenantID: tenant, Type: "a.b", Payload: []byte(name), Target: target}}
}

func toAll(name string) *history.Entry { return entryTo("acme", name, event.ToTenant()) }

func chosen(e *history.Entry) *history.Entry {
	e.Chosen = true
	return e
}

func names(entries []*history.Entry) string {
	var list []string
	for _, e := range entries {
		list = append(list, string(e.Event.Payload))
	}
	return strings.Join(list, " ")
}

// read reads all there is for a query, page by page.
func (l *logUser) read(q history.Query) string {
	l.Helper()
	var all []string
	for {
		page, err := l.Read(l.Context(), "acme", q)
		l.is.NoErr(err)
		if len(page.Entries) > 0 {
			all = append(all, names(page.Entries))
		}
		if page.Next.Seq == q.After {
			return strings.Join(all, " ")
		}
		q.After = page.Next.Seq
	}
}

func (l *logUser) oldest() uint64 {
	c, err := l.Find(l.Context(), "acme", "", nil)
	l.is.NoErr(err)
	return c.Seq
}

var defaults = history.Limits{Events: 1000, Bytes: 1 << 20, TTL: time.Hour, Total: 1 << 20, Window: time.Minute, IDs: 1000}

// What is appended together is handed over together, in one order, at places that
// follow each other; what is not stored has none; and tenants are apart.
func TestLogAppend(t *testing.T) {
	anyLog(t, defaults, func(t *testing.T, l *logUser) {
		is := l.is
		head := l.attach("acme")
		l.attach("other")
		ephemeral := toAll("2")
		ephemeral.Event.Ephemeral = true
		one, three := toAll("1"), toAll("3")
		other := entryTo("other", "9", event.ToTenant())
		l.add(one, ephemeral, other, three)
		is.Equal(names(l.got["acme"]), "1 2 3")
		is.Equal(names(l.got["other"]), "9")
		is.Equal(l.parts, map[string][]int{"acme": {3}, "other": {1}})
		is.Equal(l.flushed, 2)
		is.Equal(one.Cursor, history.Cursor{Epoch: head.Epoch, Seq: head.Seq + 1})
		is.Equal(three.Cursor, history.Cursor{Epoch: head.Epoch, Seq: head.Seq + 2}) // consecutive
		is.Equal(ephemeral.Cursor, history.Cursor{})
		is.True(other.Cursor.Epoch != head.Epoch) // another tenant's cursor is none here
		is.Equal(l.read(history.Query{After: head.Seq}), "1 3")
		is.Equal(l.attach("acme"), three.Cursor) // the head
	})
}

// However many append at once, the sink's order is the order of places.
func TestLogOrder(t *testing.T) {
	anyLog(t, defaults, func(t *testing.T, l *logUser) {
		var wg sync.WaitGroup
		for p := range 8 {
			wg.Go(func() {
				for i := range 50 {
					l.add(toAll(fmt.Sprint(p)), toAll(fmt.Sprint(i)))
				}
			})
		}
		wg.Wait()
		got := l.got["acme"]
		l.is.Equal(len(got), 800)
		for i := 1; i < len(got); i++ {
			l.is.Equal(got[i].Cursor.Seq, got[i-1].Cursor.Seq+1)
		}
		l.is.Equal(l.read(history.Query{Limit: 7}), names(got))
	})
}

// A chosen id is recognised within the window, in a batch, for what is not stored,
// and by one of two who bring it at once; the hub's own ids are not remembered.
func TestLogDuplicates(t *testing.T) {
	anyLog(t, defaults, func(t *testing.T, l *logUser) {
		is := l.is
		l.attach("other")
		first := chosen(toAll("1"))
		l.add(first, toAll("2"), toAll("2"))
		again, twice := chosen(toAll("1")), chosen(toAll("3"))
		l.add(again, twice, chosen(toAll("3")), chosen(entryTo("other", "1", event.ToTenant())))
		is.True(again.Duplicate)
		is.Equal(again.Cursor, first.Cursor)                                               // the first's
		is.Equal(event.FormatTime(again.FirstAt), event.FormatTime(first.Event.Timestamp)) // the first's, as it is told
		is.True(!twice.Duplicate)
		is.Equal(names(l.got["acme"]), "1 2 2 3")
		is.Equal(names(l.got["other"]), "1") // another tenant's id is its own

		ephemeral := func() *history.Entry {
			e := chosen(toAll("4"))
			e.Event.Ephemeral = true
			return e
		}
		l.add(ephemeral())
		last := ephemeral()
		l.add(last)
		is.True(last.Duplicate)
		is.Equal(last.Cursor, history.Cursor{})

		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { l.add(chosen(toAll("5"))) })
		}
		wg.Wait()
		is.Equal(names(l.got["acme"]), "1 2 2 3 4 5")
		is.Equal(l.read(history.Query{}), "1 2 2 3 5")
	})
}

// A cursor is a place, expired, or none of this history.
func TestLogFind(t *testing.T) {
	limits := defaults
	limits.Events = 3
	anyLog(t, limits, func(t *testing.T, l *logUser) {
		is := l.is
		var cursors []history.Cursor
		for i := range 5 {
			e := toAll(fmt.Sprint(i))
			l.add(e)
			cursors = append(cursors, e.Cursor)
		}
		head := cursors[4]
		for _, c := range []struct {
			cursor string
			want   history.Cursor
			err    error
		}{
			{head.String(), head, nil},
			{cursors[1].String(), cursors[1], nil}, // the place before the oldest of the three
			{cursors[0].String(), cursors[1], history.ErrExpired},
			{"", cursors[1], nil},
			{history.Cursor{Epoch: history.NewKey(nil).Epoch(make([]byte, 8)), Seq: 1}.String(), head, history.ErrUnknownCursor},
			{history.Cursor{Epoch: history.Epoch{Key: head.Epoch.Key, Tag: head.Epoch.Tag + 1}, Seq: 1}.String(), head, history.ErrUnknownCursor},
			{"0123456789abcdef-1", head, history.ErrUnknownCursor}, // as they were before they were opaque
			{head.String()[1:], head, history.ErrUnknownCursor},
			{head.String() + "=", head, history.ErrUnknownCursor},
			{"- -", head, history.ErrUnknownCursor},
		} {
			got, err := l.Find(t.Context(), "acme", c.cursor, nil)
			is.Equal(err, c.err)  // err
			is.Equal(got, c.want) // place
		}
		is.Equal(l.read(history.Query{After: cursors[1].Seq}), "2 3 4")
		page, err := l.Read(t.Context(), "acme", history.Query{After: cursors[0].Seq})
		is.Equal(err, history.ErrExpired)
		is.Equal(page.Next, cursors[1])
		got, err := l.Find(t.Context(), "nobody", head.String(), nil)
		is.Equal(err, history.ErrUnknownCursor)
		is.True(got.Epoch != history.Epoch{} && got.Epoch != head.Epoch)
		// Nobody can make up a place that was not given yet: the servers have lost it, which
		// begins another history. In memory nothing is lost without the rest.
		got, err = l.Find(t.Context(), "acme", history.Cursor{Epoch: head.Epoch, Seq: head.Seq + 1}.String(), nil)
		is.Equal(err, history.ErrUnknownCursor)
		if _, shared := l.Log.(*brokerLog); shared {
			is.True(got.Epoch != history.Epoch{} && got.Epoch != head.Epoch)
		} else {
			is.Equal(got, head)
		}
	})
}

// A reader reads what is for it: its profile's, its tenant's, and its rooms' while
// it was there; in order, in pages that leave out nothing.
func TestLogReader(t *testing.T) {
	anyLog(t, defaults, func(t *testing.T, l *logUser) {
		is := l.is
		ann, bob := event.Profile{Type: "user", ID: "ann"}, event.Profile{Type: "user", ID: "bob"}
		room := event.Room{Kind: event.KindConversation, ID: "r"}
		all := []*history.Entry{
			entryTo("acme", "1", event.ToProfile(ann)), entryTo("acme", "2", event.ToProfile(bob)),
			entryTo("acme", "3", event.ToConversation("r")), toAll("4"),
			entryTo("acme", "5", event.ToProfiles(bob, ann, ann)), entryTo("acme", "6", event.ToConversation("r")),
			entryTo("acme", "7", event.ToGroup("r")), entryTo("acme", "8", event.ToConversation("r")),
		}
		l.add(all...)
		at := func(i int) uint64 { return all[i-1].Cursor.Seq }
		annOnly := &history.Reader{Profile: ann}
		is.Equal(l.read(history.Query{Reader: annOnly}), "1 4 5")
		is.Equal(l.read(history.Query{Reader: annOnly, After: at(1)}), "4 5")
		is.Equal(l.read(history.Query{Reader: &history.Reader{Profile: bob}}), "2 4 5")
		stays := &history.Reader{Profile: ann, Rooms: []history.Stay{{Room: room, From: at(2), Until: at(4)}, {Room: room, From: at(6), Until: at(8)}}}
		for limit := range 4 {
			is.Equal(l.read(history.Query{Reader: stays, Limit: limit}), "1 3 4 5 8") // 6 came while she was away
		}
		for bytes := range 5 {
			is.Equal(l.read(history.Query{Reader: stays, Bytes: bytes * 100}), "1 3 4 5 8")
		}
		is.Equal(l.read(history.Query{Reader: &history.Reader{Profile: ann, Rooms: []history.Stay{{Room: event.Room{Kind: event.KindGroup, ID: "r"}, From: 0, Until: at(8)}}}}), "1 4 5 7") // rooms of both kinds
	})
}

// The history ends where a tenant's limits are; what is dropped leaves no trace.
func TestLogLimits(t *testing.T) {
	limits := defaults
	limits.Events, limits.Bytes = 0, 20_000
	anyLog(t, limits, func(t *testing.T, l *logUser) {
		for i := range 1000 {
			l.add(entryTo("acme", fmt.Sprint(i), event.ToProfiles(event.Profile{Type: "user", ID: fmt.Sprint(i % 7)}, event.Profile{Type: "user", ID: "all"})))
		}
		_, shared := l.Log.(*brokerLog)
		if shared { // where it ends there a little later, and a part earlier
			eventually(t, func() bool { return l.Stats().CutTenant > 0 && l.Stats().Bytes <= 20_000 })
		}
		stats := l.Stats()
		l.is.True(stats.Bytes <= 20_000 && (stats.Bytes > 18_000 || shared && stats.Bytes > 15_000))
		l.is.True(stats.Entries > 10)
		kept := l.read(history.Query{After: l.oldest()})
		events := len(strings.Fields(kept))
		l.is.True(events == stats.Entries || shared && events > stats.Entries-10) // beside events it has an anchor, and where it was cut
		l.is.True(strings.HasSuffix(kept, " 998 999"))
		l.is.Equal(l.read(history.Query{After: l.oldest(), Reader: &history.Reader{Profile: event.Profile{Type: "user", ID: "all"}}}), kept)
	})
}

// All tenants together have a limit; the largest pay for it.
func TestMemoryLogTotal(t *testing.T) {
	is := is.New(t)
	limits := defaults
	limits.Total = 100_000
	l := &logUser{T: t, is: is, Log: history.NewMemory(limits), got: map[string][]*history.Entry{}, parts: map[string][]int{}}
	l.add(entryTo("quiet", "1", event.ToTenant()))
	for i := range 1000 {
		l.add(toAll(fmt.Sprint(i)))
	}
	is.True(l.Stats().Bytes <= limits.Total)
	page, err := l.Read(t.Context(), "quiet", history.Query{})
	is.NoErr(err)
	is.Equal(names(page.Entries), "1") // it is still there
	for i := range 1000 {
		l.add(entryTo(fmt.Sprint("tenant-", i), "1", event.ToTenant()))
	}
	is.True(l.Stats().Bytes <= limits.Total)
	is.True(l.Stats().Tenants < 200) // and who has lost all is forgotten
}

// Age ends an entry, an id's window and an empty tenant; no place is given twice.
func TestMemoryLogAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		l := &logUser{T: t, is: is, Log: history.NewMemory(defaults), got: map[string][]*history.Entry{}, parts: map[string][]int{}}
		first := chosen(toAll("1"))
		l.add(first)
		time.Sleep(defaults.Window - 1)
		again := chosen(toAll("1"))
		l.add(again)
		is.True(again.Duplicate)
		time.Sleep(time.Nanosecond)
		l.add(chosen(toAll("1"))) // the window is over
		is.Equal(l.Stats(), history.Stats{Tenants: 1, Entries: 2, Bytes: l.Stats().Bytes, Limit: defaults.Total, Memory: l.Stats().Bytes, IDs: 1})
		time.Sleep(defaults.TTL - defaults.Window)
		_, err := l.Find(t.Context(), "acme", history.Cursor{Epoch: first.Cursor.Epoch, Seq: 0}.String(), nil)
		is.Equal(err, history.ErrExpired) // the first has gone, without a sweep
		is.Equal(l.read(history.Query{After: l.oldest()}), "1")
		time.Sleep(defaults.Window)
		l.Sweep(time.Now())
		is.Equal(l.Stats(), history.Stats{Bytes: history.GraveBytes, Limit: defaults.Total, Memory: history.GraveBytes}) // where its places stood
		l.add(toAll("2"))
		_, err = l.Find(t.Context(), "acme", first.Cursor.String(), nil)
		is.Equal(err, history.ErrExpired) // never complete: what came between is gone
	})
}

// Ids past their number are forgotten, the oldest first, and counted.
func TestMemoryLogForgetsIDs(t *testing.T) {
	is := is.New(t)
	limits := defaults
	limits.IDs = 10
	l := &logUser{T: t, is: is, Log: history.NewMemory(limits), got: map[string][]*history.Entry{}, parts: map[string][]int{}}
	for i := range 11 {
		l.add(chosen(toAll(fmt.Sprint(i))))
	}
	is.Equal(l.Stats().IDs, 10)
	is.Equal(l.Stats().LostIDs, 1)
	oldest, next := chosen(toAll("0")), chosen(toAll("2"))
	l.add(next)
	is.True(next.Duplicate)
	l.add(oldest)
	is.True(!oldest.Duplicate)
}

// What is counted is what an entry takes.
func TestEntrySize(t *testing.T) {
	if !byItself(t) {
		return
	}
	is := is.New(t)
	const entries = 20_000
	limits := history.Limits{}
	log := history.NewMemory(limits)
	l := &logUser{T: t, is: is, Log: log, got: map[string][]*history.Entry{}, parts: map[string][]int{}}
	before := liveHeap()
	for i := range entries {
		id := fmt.Sprintf("profile-number-%d", i)
		l.add(entryTo(strings.Clone("acme"), `"`+strings.Repeat("x", 200)+`"`, event.ToProfile(event.Profile{Type: "user", ID: id})))
	}
	real := float64(liveHeap()-before) / entries
	counted := float64(log.Stats().Bytes) / entries
	t.Logf("an entry takes %.0f bytes and is counted as %.0f", real, counted)
	is.True(counted > real*0.85 && counted < real*1.5)
}

func FuzzParseCursor(f *testing.F) {
	for _, seed := range []string{"", "-", "a-0", "a-18446744073709551615", "a-18446744073709551616", "a-b-1", "a-01", "é-1", "\x00-1"} {
		f.Add(seed)
	}
	l := history.NewMemory(history.Limits{Events: 2})
	for range 3 {
		e := toAll("1")
		e.Envelope = e.Event.Seal()
		l.Append(context.Background(), []*history.Entry{e})
	}
	head, _ := l.Attach(context.Background(), "acme")
	valid := []string{head.String(), history.Cursor{Epoch: head.Epoch, Seq: 2}.String(), history.Cursor{Epoch: head.Epoch, Seq: 1}.String(), ""}
	for _, v := range valid {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if c, ok := head.Epoch.Parse(text); ok && c.String() != text {
			t.Fatalf("%q reads as %q", text, c)
		}
		place, err := l.Find(context.Background(), "acme", text, nil)
		if (err == nil) != slices.Contains(valid, text) {
			t.Fatalf("%q: %v", text, err)
		}
		if place.Epoch != head.Epoch || place.Seq < 1 || place.Seq > 3 {
			t.Fatalf("%q leads to %v", text, place)
		}
	})
}
