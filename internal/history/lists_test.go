package history

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
)

// A queue takes memory by what is in it, not by what was.
func TestQueueGivesMemoryBack(t *testing.T) {
	is := is.New(t)
	var q queue[int]
	random := rand.New(rand.NewPCG(1, 1))
	next, first := 0, 0
	for range 200 {
		for range random.IntN(2000) {
			q.push(next)
			next++
		}
		for range random.IntN(2000) {
			if q.len() == 0 {
				break
			}
			is.Equal(q.at(0), first)
			is.Equal(q.pop(), first)
			first++
			is.True(q.places() <= 3*q.len()+8)
		}
		is.Equal(q.len(), next-first)
	}
	for q.len() > 0 {
		q.pop()
	}
	is.Equal(q.places(), 0)
}

// An entry that names many is on no list of theirs; whoever it names reads it, in its order among
// others, and is told once it has gone. It is counted for all that it takes.
func TestAWideEntryIsOnNoList(t *testing.T) {
	is := is.New(t)
	h := &heldTo{Memory: NewMemory(Limits{Events: 20})}
	random := rand.New(rand.NewPCG(1, 20))
	person := func(i int) event.Profile { return event.Profile{Type: "user", ID: fmt.Sprint(i)} }
	var all []*Entry
	for i := range 60 {
		to := event.ToProfile(person(random.IntN(5)))
		if random.IntN(2) == 0 {
			for p := range manyPeople + 5 {
				to.Profiles = append(to.Profiles, person(5*p+random.IntN(5)))
			}
			to.Kind, to.Profiles = event.KindProfiles, to.Profiles[1:]
		}
		e, untold := entryTo("acme", fmt.Sprint(i), to), entryTo("acme", fmt.Sprint(i), to)
		untold.Event.Ephemeral = true // and is known by its names as well
		is.NoErr(h.Append(t.Context(), []*Entry{e, untold}))
		is.Equal(untold.people != nil, len(to.Profiles) > manyPeople)
		all = append(all, e)
		h.counted(t)

		after, from := random.Uint64N(e.Cursor.Seq), uint64(max(0, len(all)-20))
		for reader := range 7 {
			var want []string
			lost := false
			for _, e := range all {
				if e.Cursor.Seq > after && slices.Contains(e.Event.Target.Profiles, person(reader)) {
					lost = lost || e.Cursor.Seq <= from
					want = append(want, e.Event.ID)
				}
			}
			is.Equal(e.Names(person(reader)), slices.Contains(to.Profiles, person(reader)))
			page, err := h.Read(t.Context(), "acme", Query{After: after, Reader: &Reader{Profile: person(reader)}})
			if is.Equal(errors.Is(err, ErrExpired), lost); lost {
				continue
			}
			is.NoErr(err)
			var got []string
			for _, e := range page.Entries {
				got = append(got, e.Event.ID)
			}
			is.Equal(got, want)
		}
		acme := h.shelves.lock("acme", false)
		is.True(acme.lists.profiles.queues.Len() <= 5)
		is.Equal(acme.lists.mentions, acme.lists.wide.len()*(manyPeople+5))
		acme.mu.Unlock()
	}
}
