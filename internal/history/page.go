package history

import (
	"slices"

	"realtimehub/internal/event"
)

// Reader is the profile for whom entries are read: its own, its tenant's, and its rooms' from
// while it belonged to them.
type Reader struct {
	Profile event.Profile
	Rooms   []Stay

	// What is not known of the profile up to a place. Up to RoomsFrom every room's entries are read,
	// and the caller checks membership itself.
	StaysFrom uint64 // when it was in its rooms
	RoomsFrom uint64 // which rooms it had
}

// Stay is a time in a room, in places of the tenant's history: those after From, up to Until.
type Stay struct {
	Room        event.Room
	From, Until uint64
}

// wants says whether an entry is for a reader; for nil every one is.
func (r *Reader) wants(e *Entry) bool {
	if r == nil {
		return true
	}
	t := &e.Event.Target
	room, ok := t.Room()
	switch {
	case t.Kind == event.KindTenant:
		return true
	case !ok:
		return e.Names(r.Profile)
	}
	return e.Cursor.Seq <= r.RoomsFrom || slices.ContainsFunc(r.Rooms, func(s Stay) bool {
		return s.Room == room && s.From < e.Cursor.Seq && e.Cursor.Seq <= s.Until
	})
}

// Query asks for entries after a place, the oldest first.
type Query struct {
	After  uint64
	Until  uint64  // the last place that is read; 0: the end
	Reader *Reader // nil: all entries
	Limit  int     // entries at most; at least one is read, if there is one
	Bytes  int     // of envelopes and of whom they are for, as many entries as fit
}

// End is the last place that is read of a history that ends at head.
func (q *Query) End(head uint64) uint64 {
	if q.Until > 0 {
		head = min(head, q.Until)
	}
	return max(q.After, head)
}

// Page is what a Query finds. Entries are shared: nobody changes them.
type Page struct {
	Entries []*Entry
	Next    Cursor // the place reached: there is nothing else up to here
}

// Size is the memory that the entries take, in bytes.
func (p *Page) Size() (bytes int) {
	for _, e := range p.Entries {
		bytes += int(e.size())
	}
	return bytes
}

// More says that the page is as large as was asked for, so that more may follow.
func (p *Page) More() bool {
	n := len(p.Entries)
	return n > 0 && p.Next == p.Entries[n-1].Cursor
}

// PageBuilder fills a page with what a Query asks for.
type PageBuilder struct {
	Page  Page
	query Query
	bytes int // as the query counts them
}

// recipientBytes is what each recipient of an event counts for in a page.
const recipientBytes = 48

// BeginPage begins a page that ends at a place, or before it if the page is full by then.
func BeginPage(q Query, end Cursor) PageBuilder { return PageBuilder{Page: Page{Next: end}, query: q} }

// Add adds the next entry, if the query's reader wants it. It returns false if the page is
// full without it: the page ends at the entry before.
func (p *PageBuilder) Add(e *Entry) bool { return !p.query.Reader.wants(e) || p.add(e) }

// add is Add for what the reader wants.
func (p *PageBuilder) add(e *Entry) bool {
	page, q, t := &p.Page, &p.query, &e.Event.Target
	p.bytes += len(e.Envelope) + recipientBytes*(len(t.Profiles)+len(t.ExcludeProfiles))
	if n := len(page.Entries); n > 0 && (q.Limit > 0 && n == q.Limit || q.Bytes > 0 && p.bytes > q.Bytes) {
		page.Next = page.Entries[n-1].Cursor
		return false
	}
	page.Entries = append(page.Entries, e)
	return true
}
