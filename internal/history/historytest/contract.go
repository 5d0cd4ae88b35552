package historytest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/testkit"
)

// Kind is one kind of Log.
type Kind struct {
	Open   func(*testing.T, history.Limits) history.Log // makes an empty one
	Shared bool                                         // servers keep it, for several hubs
}

// Run holds a kind to what the program expects of any.
func Run(t *testing.T, k Kind) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Kind)
	}{
		{"append", appending}, {"order", ordering}, {"duplicates", recognizing},
		{"find", finding}, {"reader", reading}, {"limits", limiting},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, k) })
	}
}

// with runs a test of an empty log in which "acme" is followed.
func (k Kind) with(t *testing.T, limits history.Limits, test func(*User)) {
	l := NewUser(t, k.Open(t, limits))
	l.Follow(l)
	l.attachTo("acme")
	test(l)
}

// What is appended together is handed over together, in one order, at places that
// follow each other; what is not stored has none; and tenants are apart.
func appending(t *testing.T, k Kind) {
	again := false
	k.with(t, Limits, func(l *User) {
		is := l.is
		head := l.attachTo("acme")
		l.attachTo("other")
		ephemeral := ToAll("2")
		ephemeral.Event.Ephemeral = true
		one, three := ToAll("1"), ToAll("3")
		other := To("other", "9", event.ToTenant())
		if again = !l.Add(one, ephemeral, other, three); again {
			return
		}
		is.Equal(Names(l.got["acme"]), "1 2 3")
		is.Equal(Names(l.got["other"]), "9")
		is.Equal(l.parts, map[string][]int{"acme": {3}, "other": {1}})
		is.Equal(l.flushed, 2)
		is.True(one.Cursor.Epoch == head.Epoch && one.Cursor.Seq > head.Seq)               // a log may take places for its own
		is.Equal(three.Cursor, history.Cursor{Epoch: head.Epoch, Seq: one.Cursor.Seq + 1}) // not among what is appended together
		is.Equal(ephemeral.Cursor, history.Cursor{})
		is.True(other.Cursor.Epoch != head.Epoch) // another tenant's cursor is none here
		is.Equal(l.ReadAll(history.Query{After: head.Seq}), "1 3")
		is.Equal(l.attachTo("acme"), three.Cursor) // the head
	})
	if again {
		appending(t, k)
	}
}

// However many append at once, the sink's order is the order of places. Between what is
// appended together no other has one; elsewhere a log that tries whether it can keep anything
// may take one.
func ordering(t *testing.T, k Kind) {
	k.with(t, Limits, func(l *User) {
		var wg sync.WaitGroup
		for p := range 8 {
			wg.Go(func() {
				for i := range 50 {
					l.Add(ToAll(fmt.Sprint(p)), ToAll(fmt.Sprint(i)))
				}
			})
		}
		wg.Wait()
		got := l.got["acme"]
		l.is.Equal(len(got), 800)
		for i := 1; i < len(got); i++ {
			before, at := got[i-1].Cursor.Seq, got[i].Cursor.Seq
			l.is.True(at == before+1 || i%2 == 0 && at > before) // two were appended together
		}
		l.is.Equal(l.ReadAll(history.Query{Limit: 7}), Names(got))
	})
}

// A chosen id is recognised within the window, in a batch, for what is not stored,
// and by one of two who bring it at once; the hub's own ids are not remembered.
func recognizing(t *testing.T, k Kind) {
	k.with(t, Limits, func(l *User) {
		is := l.is
		l.attachTo("other")
		first := Chosen(ToAll("1"))
		l.Add(first, ToAll("2"), ToAll("2"))
		again, twice := Chosen(ToAll("1")), Chosen(ToAll("3"))
		l.Add(again, twice, Chosen(ToAll("3")), Chosen(To("other", "1", event.ToTenant())))
		is.True(again.Duplicate)
		is.Equal(again.Cursor, first.Cursor)                                               // the first's
		is.Equal(event.FormatTime(again.FirstAt), event.FormatTime(first.Event.Timestamp)) // the first's, as it is told
		is.True(!twice.Duplicate)
		is.Equal(Names(l.got["acme"]), "1 2 2 3")
		is.Equal(Names(l.got["other"]), "1") // another tenant's id is its own

		ephemeral := func() *history.Entry {
			e := Chosen(ToAll("4"))
			e.Event.Ephemeral = true
			return e
		}
		l.Add(ephemeral())
		last := ephemeral()
		l.Add(last)
		is.True(last.Duplicate)
		is.Equal(last.Cursor, history.Cursor{})

		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { l.Add(Chosen(ToAll("5"))) })
		}
		wg.Wait()
		is.Equal(Names(l.got["acme"]), "1 2 2 3 4 5")
		is.Equal(l.ReadAll(history.Query{}), "1 2 2 3 5")
	})
}

// A cursor is a place, expired, or none of this history.
func finding(t *testing.T, k Kind) {
	limits := Limits
	limits.Events = 3
	k.with(t, limits, func(l *User) {
		is := l.is
		var cursors []history.Cursor
		for i := range 5 {
			e := ToAll(fmt.Sprint(i))
			l.Add(e)
			cursors = append(cursors, e.Cursor)
		}
		head := cursors[4]
		forged := head.Epoch
		forged.Tag++
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
			{history.Cursor{Epoch: forged, Seq: 1}.String(), head, history.ErrUnknownCursor},
			{"0123456789abcdef-1", head, history.ErrUnknownCursor}, // as they were before they were opaque
			{head.String()[1:], head, history.ErrUnknownCursor},
			{head.String() + "=", head, history.ErrUnknownCursor},
			{"- -", head, history.ErrUnknownCursor},
		} {
			got, err := l.Find(l.Context(), "acme", c.cursor, nil)
			is.Equal(err, c.err)  // err
			is.Equal(got, c.want) // place
		}
		is.Equal(l.ReadAll(history.Query{After: cursors[1].Seq}), "2 3 4")
		page, err := l.Read(l.Context(), "acme", history.Query{After: cursors[0].Seq})
		is.Equal(err, history.ErrExpired)
		is.Equal(page.Next, cursors[1])
		got, err := l.Find(l.Context(), "nobody", head.String(), nil)
		is.Equal(err, history.ErrUnknownCursor)
		is.True(got.Epoch != history.Epoch{} && got.Epoch != head.Epoch)
		// Nobody can make up a place that was not given yet: the servers have lost it, which
		// begins another history. In memory nothing is lost without the rest.
		got, err = l.Find(l.Context(), "acme", history.Cursor{Epoch: head.Epoch, Seq: head.Seq + 1}.String(), nil)
		is.Equal(err, history.ErrUnknownCursor)
		if k.Shared {
			is.True(got.Epoch != history.Epoch{} && got.Epoch != head.Epoch)
		} else {
			is.Equal(got, head)
		}
	})
}

// A reader reads what is for it: its profile's, its tenant's, and its rooms' while
// it was there; in order, in pages that leave out nothing.
func reading(t *testing.T, k Kind) {
	k.with(t, Limits, func(l *User) {
		is := l.is
		ann, bob := event.Profile{Type: "user", ID: "ann"}, event.Profile{Type: "user", ID: "bob"}
		room := event.Room{Kind: event.KindConversation, ID: "r"}
		all := []*history.Entry{
			To("acme", "1", event.ToProfile(ann)), To("acme", "2", event.ToProfile(bob)),
			To("acme", "3", event.ToConversation("r")), ToAll("4"),
			To("acme", "5", event.ToProfiles(bob, ann, ann)), To("acme", "6", event.ToConversation("r")),
			To("acme", "7", event.ToGroup("r")), To("acme", "8", event.ToConversation("r")),
		}
		l.Add(all...)
		at := func(i int) uint64 { return all[i-1].Cursor.Seq }
		annOnly := &history.Reader{Profile: ann}
		is.Equal(l.ReadAll(history.Query{Reader: annOnly}), "1 4 5")
		is.Equal(l.ReadAll(history.Query{Reader: annOnly, After: at(1)}), "4 5")
		is.Equal(l.ReadAll(history.Query{Reader: &history.Reader{Profile: bob}}), "2 4 5")
		stays := &history.Reader{Profile: ann, Rooms: []history.Stay{{Room: room, From: at(2), Until: at(4)}, {Room: room, From: at(6), Until: at(8)}}}
		for limit := range 4 {
			is.Equal(l.ReadAll(history.Query{Reader: stays, Limit: limit}), "1 3 4 5 8") // 6 came while she was away
		}
		for bytes := range 5 {
			is.Equal(l.ReadAll(history.Query{Reader: stays, Bytes: bytes * 100}), "1 3 4 5 8")
		}
		is.Equal(l.ReadAll(history.Query{Reader: &history.Reader{Profile: ann, Rooms: []history.Stay{{Room: event.Room{Kind: event.KindGroup, ID: "r"}, From: 0, Until: at(8)}}}}), "1 4 5 7") // rooms of both kinds
		for place, want := range map[int]string{2: "1 4 5 8", 3: "1 3 4 5 8", 6: "1 3 4 5 6 8", 8: "1 3 4 5 6 7 8"} {                                                                          // up to there of any room
			reader := &history.Reader{Profile: ann, RoomsFrom: at(place), Rooms: []history.Stay{{Room: room, From: at(6), Until: at(8)}}}
			is.Equal(l.ReadAll(history.Query{Reader: reader}), want)
		}

		crowd := []event.Profile{ann}
		for i := range 1500 {
			crowd = append(crowd, event.Profile{Type: "user", ID: fmt.Sprint(i)})
		}
		l.Add(To("acme", "crowd", event.ToProfiles(crowd...)), To("acme", "ann", event.ToProfile(ann)))
		is.True(strings.HasSuffix(l.ReadAll(history.Query{Reader: &history.Reader{Profile: ann}}), " crowd ann")) // though it names thousands
		is.True(strings.HasSuffix(l.ReadAll(history.Query{Reader: &history.Reader{Profile: crowd[1500]}}), " crowd"))
		is.True(!strings.Contains(l.ReadAll(history.Query{Reader: &history.Reader{Profile: bob}}), "crowd"))
	})
}

// mostShared is how many of limiting's events there may be where hubs share a log: each takes
// 284 bytes of the 20,000, with its subject and headers.
const mostShared = 20_000 / 280

// The history ends where a tenant's limits are; what is dropped leaves no trace.
func limiting(t *testing.T, k Kind) {
	limits := Limits
	limits.Events, limits.Bytes = 0, 20_000
	k.with(t, limits, func(l *User) {
		for i := range 1000 {
			l.Add(To("acme", fmt.Sprint(i), event.ToProfiles(event.Profile{Type: "user", ID: fmt.Sprint(i % 7)}, event.Profile{Type: "user", ID: "all"})))
		}
		if k.Shared { // where it ends there a little later; beside events it has its own notes of where it was cut
			testkit.Eventually(l.T, func() bool {
				oldest := l.Oldest()
				page, err := l.Read(l.Context(), "acme", history.Query{After: oldest})
				return err == nil && len(page.Entries) <= mostShared && oldest == l.Oldest()
			})
		}
		kept := l.ReadAll(history.Query{After: l.Oldest()})
		events := len(strings.Fields(kept))
		if k.Shared {
			l.is.True(events <= mostShared && events > mostShared/2)
		} else {
			stats := l.Stats()
			l.is.True(stats.Bytes <= 20_000 && stats.Bytes > 18_000)
			l.is.True(stats.Entries > 10)
			l.is.Equal(events, stats.Entries)
		}
		l.is.True(strings.HasSuffix(kept, " 998 999"))
		l.is.Equal(l.ReadAll(history.Query{After: l.Oldest(), Reader: &history.Reader{Profile: event.Profile{Type: "user", ID: "all"}}}), kept)
	})
}
