package history_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/testkit"
)

func TestMemory(t *testing.T) {
	historytest.Run(t, historytest.Kind{Open: func(_ *testing.T, limits history.Limits) history.Log { return history.NewMemory(limits) }})
}

// All tenants together have a limit; the largest pay for it.
func TestMemoryLogTotal(t *testing.T) {
	is := is.New(t)
	limits := historytest.Limits
	limits.Total = 100_000
	l := historytest.NewUser(t, history.NewMemory(limits))
	l.Add(historytest.To("quiet", "1", event.ToTenant()))
	for i := range 1000 {
		l.Add(historytest.ToAll(fmt.Sprint(i)))
	}
	is.True(l.Stats().Bytes <= limits.Total)
	page, err := l.Read(t.Context(), "quiet", history.Query{})
	is.NoErr(err)
	is.Equal(historytest.Names(page.Entries), "1") // it is still there
	for i := range 1000 {
		l.Add(historytest.To(fmt.Sprint("tenant-", i), "1", event.ToTenant()))
	}
	is.True(l.Stats().Bytes <= limits.Total)
	is.True(l.Stats().Tenants < 200) // and who has lost all is forgotten
}

// Age ends an entry, an id's window and an empty tenant; no place is given twice.
func TestMemoryLogAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		l := historytest.NewUser(t, history.NewMemory(historytest.Limits))
		first := historytest.Chosen(historytest.ToAll("1"))
		l.Add(first)
		time.Sleep(historytest.Limits.Window - 1)
		again := historytest.Chosen(historytest.ToAll("1"))
		l.Add(again)
		is.True(again.Duplicate)
		time.Sleep(time.Nanosecond)
		l.Add(historytest.Chosen(historytest.ToAll("1"))) // the window is over
		is.Equal(l.Stats(), history.Stats{Tenants: 1, Entries: 2, Bytes: l.Stats().Bytes, Limit: historytest.Limits.Total, Memory: l.Stats().Bytes, IDs: 1})
		time.Sleep(historytest.Limits.TTL - historytest.Limits.Window)
		_, err := l.Find(t.Context(), "acme", history.Cursor{Epoch: first.Cursor.Epoch, Seq: 0}.String(), nil)
		is.Equal(err, history.ErrExpired) // the first has gone, without a sweep
		is.Equal(l.ReadAll(history.Query{After: l.Oldest()}), "1")
		time.Sleep(historytest.Limits.Window)
		l.Sweep(time.Now())
		const grave = 240 // bytes, where its places stood
		is.Equal(l.Stats(), history.Stats{Bytes: grave, Limit: historytest.Limits.Total, Memory: grave})
		l.Add(historytest.ToAll("2"))
		_, err = l.Find(t.Context(), "acme", first.Cursor.String(), nil)
		is.Equal(err, history.ErrExpired) // never complete: what came between is gone
	})
}

// Ids past their number are forgotten, the oldest first, and counted.
func TestMemoryLogForgetsIDs(t *testing.T) {
	is := is.New(t)
	limits := historytest.Limits
	limits.IDs = 10
	l := historytest.NewUser(t, history.NewMemory(limits))
	for i := range 11 {
		l.Add(historytest.Chosen(historytest.ToAll(fmt.Sprint(i))))
	}
	is.Equal(l.Stats().IDs, 10)
	is.Equal(l.Stats().LostIDs, 1)
	oldest, next := historytest.Chosen(historytest.ToAll("0")), historytest.Chosen(historytest.ToAll("2"))
	l.Add(next)
	is.True(next.Duplicate)
	l.Add(oldest)
	is.True(!oldest.Duplicate)
}

// What is counted is what an entry takes.
func TestEntrySize(t *testing.T) {
	if !testkit.ByItself(t) {
		return
	}
	is := is.New(t)
	const entries = 20_000
	limits := history.Limits{}
	log := history.NewMemory(limits)
	l := historytest.NewUser(t, log)
	before := testkit.LiveHeap()
	for i := range entries {
		id := fmt.Sprintf("profile-number-%d", i)
		l.Add(historytest.To(strings.Clone("acme"), `"`+strings.Repeat("x", 200)+`"`, event.ToProfile(event.Profile{Type: "user", ID: id})))
	}
	real := float64(testkit.LiveHeap()-before) / entries
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
		e := historytest.ToAll("1")
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

// So many tenants may be forgotten that where they were is forgotten as well: then
// nothing is complete that may not be, no place is given twice, and the memory is bounded.
func TestForgottenTenantsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		limits := historytest.Limits
		limits.TTL = time.Minute
		l := historytest.NewUser(t, history.NewMemory(limits))
		first := historytest.ToAll("1")
		l.Add(first, historytest.ToAll("2"), historytest.ToAll("3"))
		start, head := history.Cursor{Epoch: first.Cursor.Epoch, Seq: 0}, history.Cursor{Epoch: first.Cursor.Epoch, Seq: 3}
		for i := range 10_000 {
			l.Add(historytest.To(fmt.Sprint("tenant-", i), "1", event.ToTenant()))
			if i%100 == 0 {
				time.Sleep(limits.TTL)
				l.Sweep(time.Now())
				is.True(l.Stats().Bytes <= limits.Total)
			}
		}
		me := &history.Reader{Profile: event.Profile{Type: "user", ID: "me"}}
		_, err := l.Find(t.Context(), "acme", start.String(), me)
		is.True(errors.Is(err, history.ErrExpired))
		again := historytest.ToAll("4")
		l.Add(again)
		is.True(again.Cursor.Seq > head.Seq)
		_, err = l.Find(t.Context(), "acme", again.Cursor.String(), me)
		is.NoErr(err)
	})
}

// Quiet profiles of a tenant whose history others push out, and of one that all
// tenants' limit is taken from, have missed nothing.
func TestOthersDoNotExpireTheQuiet(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits history.Limits
	}{{"count", history.Limits{Events: 10}}, {"bytes", history.Limits{Bytes: 20_000}}, {"total", history.Limits{Total: 100_000}}} {
		t.Run(c.name, func(t *testing.T) {
			is := is.New(t)
			l := historytest.NewUser(t, history.NewMemory(c.limits))
			me, you := event.Profile{Type: "user", ID: "me"}, event.Profile{Type: "user", ID: "you"}
			mine := historytest.To("acme", "1", event.ToProfile(me))
			l.Add(mine)
			for range 1000 {
				l.Add(historytest.To("acme", "2", event.ToProfile(you)))
			}
			is.True(l.Oldest() > mine.Cursor.Seq)
			_, err := l.Find(t.Context(), "acme", mine.Cursor.String(), &history.Reader{Profile: me})
			is.NoErr(err) // all that came was somebody else's
			page, err := l.Read(t.Context(), "acme", history.Query{After: mine.Cursor.Seq, Reader: &history.Reader{Profile: me}})
			is.NoErr(err)
			is.Equal(len(page.Entries), 0)
			_, err = l.Find(t.Context(), "acme", history.Cursor{Epoch: mine.Cursor.Epoch, Seq: 0}.String(), &history.Reader{Profile: me})
			is.True(errors.Is(err, history.ErrExpired))
			_, err = l.Find(t.Context(), "acme", mine.Cursor.String(), nil)
			is.True(errors.Is(err, history.ErrExpired)) // who reads all has
		})
	}
}
