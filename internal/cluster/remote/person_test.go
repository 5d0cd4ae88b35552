package remote

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/plan"
	"realtimehub/internal/sized"
)

// The first of somebody's sessions is always one that was used last, whatever comes, is used and
// goes; and none is lost.
func TestTheLatestSessionOfAPerson(t *testing.T) {
	is := is.New(t)
	who := &person{firstAt: none}
	is.True(who.add(6) == nil) // the first
	all := map[*session]bool{}
	check := func() {
		t.Helper()
		is.Equal(who.open, len(all)+1)
		is.Equal(who.latest == nil, len(all) == 0)
		n, latest := 0, who.firstAt
		for s := who.latest; s != nil; s = s.next {
			n++
			latest = max(latest, s.activeAt)
			is.True(all[s])                               // it is there
			is.True(s.activeAt <= who.latest.activeAt)    // the first is the latest
			is.True(s.next == nil || s.next.prev == s)    // there and back
			is.True((s.prev == nil) == (s == who.latest)) // nothing is before the first
		}
		is.Equal(n, len(all))
		is.Equal(who.usedAt(), latest)
	}
	for i, at := range []int64{5, 3, 9, 1, 9, 7, 2, 8} {
		s := who.add(at)
		all[s] = true
		check()
		if i%3 == 2 { // one that is not the latest is used: earlier than it was, and then later
			for other := range all {
				who.used(other, at-2)
				check()
				who.used(other, at+int64(i))
				check()
			}
		}
	}
	who.used(nil, 4) // earlier than is known
	check()
	who.used(nil, 40)
	is.Equal(who.usedAt(), int64(40))
	check()
	who.remove(nil)
	who.open++ // as check counts the first
	check()
	who.open--
	is.True(who.add(3) == nil) // another is the first
	for len(all) > 0 {
		s := who.latest
		if s.next != nil && len(all)%2 == 0 {
			s = s.next
		}
		who.remove(s)
		delete(all, s)
		check()
	}
}

// Whatever comes, is used and goes, what is told of somebody elsewhere is what their connections
// say, one by one; and what was counted is given back.
func TestWhatIsToldOfPeopleElsewhere(t *testing.T) {
	is := is.New(t)
	r := New(allowance.New(plan.Of(1 << 30)))
	r.Hold("acme")
	people := []event.Profile{{Type: "user", ID: "a"}, {Type: "user", ID: "b:c"}, {Type: "bot", ID: "a"}}
	whose, activeAt := map[uuid.UUID]event.Profile{}, map[uuid.UUID]int64{}
	latest := func(who event.Profile) (at time.Time, open int) {
		for id, of := range whose {
			if of == who {
				open++
				if used := time.Unix(0, activeAt[id]); used.After(at) {
					at = used
				}
			}
		}
		return at, open
	}
	random := rand.New(rand.NewPCG(1, 20))
	ids := make([]uuid.UUID, 12)
	for i := range ids {
		ids[i] = uuid.New()
	}
	change := func(id uuid.UUID, gone bool) {
		at := 1 + random.Int64N(1000)
		who, there := whose[id]
		want := Outcome{Kind: Used}
		switch {
		case gone && !there:
			want.Kind = Nothing
		case gone:
			want.Kind = Went
			delete(whose, id)
		case there:
			activeAt[id] = max(activeAt[id], at)
		default:
			want.Kind, who = Came, people[random.IntN(len(people))]
			whose[id], activeAt[id] = who, at
		}
		if want.Kind != Nothing {
			want.Who = who
			want.UsedAt, _ = latest(who)
		}
		is.Equal(r.Change("acme", Change{ID: id, Profile: who, ActiveAt: time.Unix(0, at), Gone: gone}), want)
	}
	for range 3000 {
		change(ids[random.IntN(len(ids))], random.IntN(3) == 0)
		is.Equal(len(r.All()["acme"]), len(whose))
		for _, who := range people {
			_, open := latest(who)
			e := &event.Event{TenantID: "acme", Target: event.Target{Kind: event.KindProfile, Profiles: []event.Profile{who}}}
			is.Equal(r.Count(e, nil), open)
			name := who.Text()
			r.Share("acme", &name)
		}
		for _, id := range ids {
			_, there := whose[id]
			e := &event.Event{TenantID: "acme", Target: event.Target{Kind: event.KindConnection, ConnectionID: id.String()}}
			is.Equal(r.Count(e, nil) == 1, there)
		}
		is.Equal(r.quotas.State.Of("acme") == 0, len(whose) == 0)
	}
	for _, id := range ids {
		change(id, true)
	}
	is.True(r.Empty("acme"))
	is.Equal(r.quotas.State.Total(), int64(0))
}

// What is counted of a person elsewhere is what Go takes.
func TestWhatAPersonElsewhereTakes(t *testing.T) {
	is := is.New(t)
	is.Equal(sized.Block(int(unsafe.Sizeof(person{}))), int64(32))
	is.Equal(sized.Block(int(unsafe.Sizeof(session{}))), int64(sessionBytes))
}
