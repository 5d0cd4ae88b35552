package history

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/matryer/is"

	"realtimehub/internal/event"
)

// farBroker is where a Near reads what it has not: a tenant's entry at each place from 1 on.
type farBroker struct {
	epoch   Epoch
	entries map[string][]*Entry
	err     error         // of each scan
	scans   int           // so many were begun
	gate    chan struct{} // each waits here, if there is one
}

func newFarBroker() *farBroker {
	return &farBroker{epoch: NewKey(nil).Epoch(make([]byte, 8)), entries: map[string][]*Entry{}}
}

func (f *farBroker) add(tenant string, bytes int) *Entry {
	list := f.entries[tenant]
	e := &Entry{Event: &event.Event{TenantID: tenant, Type: "a.b", Payload: []byte(fmt.Sprintf(`"%s"`, strings.Repeat("x", bytes))), Target: event.ToTenant()}}
	e.Envelope, e.Cursor = e.Event.Seal(), Cursor{f.epoch, uint64(len(list) + 1)}
	f.entries[tenant] = append(list, e)
	return e
}

func (f *farBroker) scan(_ context.Context, tenant string, after, until uint64, take func(*Entry) bool) error {
	f.scans++
	if f.gate != nil {
		<-f.gate
	}
	for _, e := range f.entries[tenant][after:until] {
		if f.err == nil && !take(e) {
			break
		}
	}
	return f.err
}

// near is one of what the broker has.
func (f *farBroker) near(limits Limits) *Near {
	return NewNear(limits, func(string) Epoch { return f.epoch }, f.scan)
}

// attach attaches to all that a tenant has.
func (f *farBroker) attach(t *testing.T, n *Near, tenant string) {
	t.Helper()
	_, ok := n.Attach(tenant, uint64(len(f.entries[tenant])), func() (Epoch, bool) { return f.epoch, true })
	is.New(t).True(ok)
}

// kept is what is kept of a tenant, of which nothing is to come.
func (n *Near) kept(t *testing.T, tenant string) (entries int, bytes int64) {
	t.Helper()
	h := n.shelves.lock(tenant, false)
	if h == nil {
		return 0, 0
	}
	defer h.mu.Unlock()
	is.New(t).Equal(h.coming, int64(0))
	return h.entries.len(), h.bytes
}

// What one tenant has fetched is bounded before it is there, and pushes nothing out that
// others have; of it there is room for some.
func TestNearIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const total = 1 << 20
		b := newFarBroker()
		for range 300 {
			b.add("large", 6000)
		}
		n := b.near(Limits{Total: total})
		b.attach(t, n, "small")
		b.attach(t, n, "large")
		for range 8 {
			e := b.add("small", 6000)
			n.Take("small", func(Epoch) []*Entry { return []*Entry{e} })
		}
		_, ok, fetch := n.Read("large", Query{})
		is.True(!ok)
		is.NoErr(fetch.Wait(t.Context()))
		_, ok, fetch = n.Read("large", Query{})
		is.True(!ok && fetch == nil) // it does not fit, so its reader reads for itself
		entries, bytes := n.kept(t, "large")
		is.Equal(entries, 0)
		is.Equal(bytes, int64(shelfBytes))
		entries, bytes = n.kept(t, "small")
		is.Equal(entries, 8)
		is.True(bytes < total/2) // its share
		is.True(n.Held() <= total)

		_, ok, fetch = n.Read("large", Query{After: 280})
		is.True(!ok)
		is.NoErr(fetch.Wait(t.Context()))
		page, ok, _ := n.Read("large", Query{After: 280})
		is.True(ok)
		is.Equal(page.Entries, b.entries["large"][280:])
		entries, bytes = n.kept(t, "large")
		is.Equal(entries, 20)
		is.True(bytes > 20*6000)
		is.Equal(n.Stats().Entries, 28)
		is.Equal(n.Stats().Bytes, n.Held())
	})
}

// All who miss the same wait for one question, and for no longer than each wants to; the
// next asks again, if that had no answer.
func TestAFetchIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		b := newFarBroker()
		b.gate = make(chan struct{})
		for range 3 {
			b.add("acme", 10)
		}
		n := b.near(Limits{})
		b.attach(t, n, "acme")
		b.err = errors.New("nobody answers")
		_, _, first := n.Read("acme", Query{})
		_, _, second := n.Read("acme", Query{After: 1})
		is.True(first != nil && first == second)
		gone, leave := context.WithCancel(t.Context())
		leave()
		is.Equal(first.Wait(gone), context.Canceled)
		b.gate <- struct{}{}
		is.Equal(first.Wait(t.Context()), b.err)
		is.Equal(b.scans, 1)

		b.err, b.gate = nil, nil
		_, _, again := n.Read("acme", Query{})
		is.NoErr(again.Wait(t.Context()))
		page, ok, _ := n.Read("acme", Query{})
		is.True(ok)
		is.Equal(page.Entries, b.entries["acme"])
		is.Equal(page.Next, Cursor{b.epoch, 3})
		is.Equal(b.scans, 2)
	})
}

// What is fetched for a history that has begun anew meanwhile, or for nobody, is not kept.
func TestAFetchThatComesTooLate(t *testing.T) {
	for name, change := range map[string]func(*farBroker, *Near){
		"another history": func(b *farBroker, n *Near) {
			b.epoch.Tag++
			n.Reset("acme", 7)
		},
		"nobody is attached": func(_ *farBroker, n *Near) { n.Detach("acme") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				b := newFarBroker()
				b.gate = make(chan struct{})
				b.add("acme", 10)
				n := b.near(Limits{})
				b.attach(t, n, "acme")
				_, _, fetch := n.Read("acme", Query{})
				synctest.Wait() // it has begun
				change(b, n)
				b.gate <- struct{}{}
				is.NoErr(fetch.Wait(t.Context()))
				entries, _ := n.kept(t, "acme")
				is.Equal(entries, 0)
				is.Equal(n.Stats().Entries, 0)
				is.Equal(n.Held(), int64(shelfBytes*n.Stats().Tenants)) // nothing is counted that is not there
			})
		})
	}
}

// Where a tenant stands is known only of one that somebody is attached to; and the head of a
// history that is over is that of none.
func TestNearIsOfWhoIsAttached(t *testing.T) {
	is := is.New(t)
	b := newFarBroker()
	e := b.add("acme", 10)
	n := b.near(Limits{})
	_, ok := n.Advance("acme", 5)
	is.True(!ok)
	_, ok = n.Attach("acme", 1, func() (Epoch, bool) { return b.epoch, false })
	is.True(!ok)
	_, ok = n.Head("acme")
	is.True(!ok)
	b.attach(t, n, "acme")
	head, ok := n.Head("acme")
	is.True(ok)
	is.Equal(head, uint64(1))
	is.True(n.Whole("acme", Cursor{b.epoch, 1}, nil))
	is.True(!n.Whole("acme", Cursor{b.epoch, 0}, nil))          // it came before
	is.True(!n.Whole("acme", Cursor{b.epoch, 2}, nil))          // it is not there yet
	is.True(!n.Whole("acme", Cursor{Epoch{Tag: 1}, 1}, nil))    // it is another's
	n.Take("acme", func(Epoch) []*Entry { return []*Entry{e} }) // again
	c, ok := n.Advance("acme", 5)
	is.True(ok)
	is.Equal(c, Cursor{b.epoch, 5})
	page, ok, _ := n.Read("acme", Query{After: 1})
	is.True(ok)
	is.Equal(len(page.Entries), 0)
	is.Equal(page.Next, c)
	n.Detach("acme")
	_, ok, fetch := n.Read("acme", Query{After: 1})
	is.True(!ok && fetch == nil)
	is.Equal(n.Stats(), Stats{})
}
