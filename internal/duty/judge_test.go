package duty

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/testkit"
)

// rig is a keeper in memory with an outbox, run in a bubble.
type rig struct {
	*Memory
	t      *testing.T
	box    *failing
	pools  *allowance.Pools
	absent map[string]bool
	place  uint64
}

// failing is an outbox that fails some times first.
type failing struct {
	*outbox.Memory
	times int
}

func (f *failing) Put(ctx context.Context, tenant, key string, drafts []outbox.Draft) error {
	if f.times > 0 {
		f.times--
		return errors.New("full")
	}
	return f.Memory.Put(ctx, tenant, key, drafts)
}

// people implements People.
type people struct{ rig *rig }

func (p people) Explain(_ context.Context, _ *Duty, of []event.Profile) []Person {
	list := make([]Person, len(of))
	for i, ref := range of {
		list[i] = Person{Profile: ref, Why: "because"}
	}
	return list
}

// judging runs a test in a bubble, with a judge that runs.
func judging(t *testing.T, do func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, pools: allowance.New(plan.Of(1 << 30)), absent: map[string]bool{}}
		r.box = &failing{Memory: outbox.NewMemory(outbox.MemoryConfig{})}
		r.Memory = NewMemory(Config{Keep: time.Hour, Box: r.box, People: people{r}, Pools: r.pools, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Run(ctx)
		}()
		do(r)
		cancel()
		<-done
	})
}

var epoch = history.NewKey(nil).Epoch(make([]byte, 8))

func user(id string) event.Profile { return event.Profile{Type: "user", ID: id} }

// open opens a duty of recipients; it returns its place.
func (r *rig) open(e event.Event, recipients ...string) uint64 {
	r.t.Helper()
	r.place++
	e.TenantID, e.Timestamp = "acme", time.Now()
	if e.ID == "" {
		e.ID = fmt.Sprint("e", r.place)
	}
	if e.Type == "" {
		e.Type = "a.b"
	}
	var list []event.Profile
	for _, id := range recipients {
		list = append(list, user(id))
	}
	d := New(&e, history.Cursor{Epoch: epoch, Seq: r.place}, list)
	for _, p := range d.Recipients {
		if e.ReportOffline && r.absent[p.ID] {
			d.Absent = append(d.Absent, p)
		}
	}
	if err := r.Open(r.t.Context(), d); err != nil {
		r.t.Fatal(err)
	}
	return r.place
}

// ack is that of a profile's connection of everything after one place and up to another.
func ack(id string, after, upTo uint64, types ...string) Acknowledgement {
	filter, _ := event.ParseFilter(types)
	return Acknowledgement{Tenant: "acme", Profile: user(id), Of: epoch.Tag, After: after, UpTo: upTo, Types: filter, Until: time.Now().Add(time.Hour)}
}

// reported are those whom the outbox names, an item a text.
func (r *rig) reported() (list []string) {
	synctest.Wait()
	page, err := r.box.Read(r.t.Context(), "acme", outbox.Query{Limit: 1000})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, item := range page.Items {
		var data struct {
			Event    struct{ ID string }
			Offline  bool
			Profiles []struct{ Profile struct{ ID string } }
		}
		if err := json.Unmarshal(item.Data, &data); err != nil {
			r.t.Fatal(err)
		}
		text := data.Event.ID + ":"
		if data.Offline {
			text = data.Event.ID + " offline:"
		}
		for _, p := range data.Profiles {
			text += " " + p.Profile.ID
		}
		list = append(list, text)
	}
	return list
}

var minute = event.Event{Deadline: time.Minute}

// Whoever has acknowledged is not reported, whoever has not is, at the deadline and not before.
func TestReportedAtTheDeadline(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.open(minute, "a", "b", "c")
		r.open(minute, "a")
		r.Acknowledge(ack("a", 0, 2))
		r.Acknowledge(ack("b", 1, 2)) // its connection began after the first
		r.Acknowledge(ack("c", 0, 2, "x.*"))
		time.Sleep(time.Minute - time.Millisecond)
		is.Equal(r.reported(), nil)
		time.Sleep(time.Millisecond)
		is.Equal(r.reported(), []string{"e1: b c"})
		came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, Query{Limit: 9})
		is.Equal(came.Counts, map[State]int{Acknowledged: 1, Reported: 2})
		stats := r.Stats()
		is.Equal(stats, Stats{Acknowledged: 2, Reported: 2})
	})
}

// An acknowledgement may come before the duty it is of: a client can be faster than its
// publisher's hub.
func TestAcknowledgedBeforeItIsOpen(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.Acknowledge(ack("a", 0, 1))
		r.Acknowledge(ack("a", 1, 2))
		r.Acknowledge(ack("b", 1, 2))
		r.open(minute, "a", "b")
		r.open(minute, "a", "b")
		time.Sleep(time.Hour)
		is.Equal(r.reported(), []string{"e1: b"})
	})
}

// However often clients acknowledge within the minute, each with the filter as it was read anew.
func TestAcknowledgedOftenBeforeItIsOpen(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		for place := range uint64(50) {
			r.Acknowledge(ack("a", place, place+1, "a.*", "x.y"))
			r.Acknowledge(ack("b", place, place+1))
			time.Sleep(time.Second)
		}
		r.open(minute, "a", "b")
		time.Sleep(time.Hour)
		is.Equal(r.reported(), nil)
	})
}

// A judge that goes on with what another judged reads the acknowledgements of days in a moment:
// it keeps no more of them than who has had them as they came.
func TestAcknowledgementsOfDays(t *testing.T) {
	is := is.New(t)
	pools := allowance.New(plan.Of(1 << 30))
	j := NewJudge(Config{Pools: pools, Logger: slog.New(slog.DiscardHandler)})
	now := time.Now()
	const minutes, each = 1000, 10
	for i := range minutes {
		for k := range each {
			a := ack(fmt.Sprint(i, "-", k), 0, 1)
			a.Given = now.Add(time.Duration(i-minutes) * time.Minute)
			j.Acknowledge(a, a.Given)
		}
	}
	is.True(pools.State.Total() < 4*each*1000)
	e := &event.Event{ID: "e", TenantID: "acme", Type: "a.b", Timestamp: now, Deadline: time.Minute}
	j.Open(New(e, history.Cursor{Epoch: epoch, Seq: 1}, []event.Profile{user("999-1"), user("1-1")}), now, nil)
	is.Equal(j.Results("acme", history.Cursor{Epoch: epoch, Seq: 1}, []int{0}, Query{Limit: 9}).Counts, map[State]int{Acknowledged: 1, Owed: 1}) // the latest is known
}

// What is of another history, or of a connection that the event excludes, is no acknowledgement.
func TestNoAcknowledgement(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		sender := uuid.New()
		e := minute
		e.Target.ExcludeConnections = []uuid.UUID{sender}
		r.open(e, "a", "b")
		other := ack("a", 0, 1)
		other.Of++
		r.Acknowledge(other)
		excluded := ack("b", 0, 1)
		excluded.Connection = sender
		r.Acknowledge(excluded)
		time.Sleep(time.Minute)
		is.Equal(r.reported(), []string{"e1: a b"})
	})
}

// Of wide duties as of narrow ones.
func TestWideDuties(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		var all []string
		for i := range 300 {
			all = append(all, fmt.Sprintf("p%03d", i))
		}
		r.open(minute, all...)
		r.open(minute, all...)
		for _, id := range all[:150] {
			r.Acknowledge(ack(id, 0, 2))
		}
		for _, id := range all[150:] {
			r.Acknowledge(ack(id, 1, 2))
		}
		time.Sleep(time.Minute)
		is.Equal(r.reported(), []string{"e1: " + strings.Join(all[150:250], " "), "e1: " + strings.Join(all[250:], " ")})
	})
}

// Who has no connection is reported at once where that was asked, and not a second time; and
// may acknowledge all the same.
func TestOfflineIsReportedAtOnce(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.absent["off"], r.absent["back"] = true, true
		e := minute
		e.ReportOffline = true
		opened := time.Now()
		r.open(e, "off", "back", "on")
		is.Equal(r.reported(), []string{"e1 offline: back off"})
		r.Acknowledge(ack("back", 0, 1))
		time.Sleep(time.Minute)
		is.Equal(r.reported(), []string{"e1 offline: back off", "e1: on"})
		came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, Query{Limit: 9})
		is.Equal(came.Counts, map[State]int{Acknowledged: 1, Reported: 2})
		is.Equal(came.List[1].At, opened) // off; when it was reported, and not the deadline
		is.Equal(came.List[2].At, opened.Add(time.Minute))
	})
}

// Who was reported at once is not reported a second time where that is not kept before the
// deadline.
func TestReportedAtOnceAndNotKept(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.absent["off"] = true
		tried := 0
		r.judge.cfg.Early = func(context.Context, *Duty, time.Time) error {
			tried++
			return errors.New("the broker does not answer")
		}
		e := minute
		e.ReportOffline = true
		opened := time.Now()
		r.open(e, "off", "on")
		time.Sleep(time.Minute)
		is.Equal(r.reported(), []string{"e1 offline: off", "e1: on"})
		is.True(tried > 50) // once a second
		came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, Query{Limit: 9})
		is.Equal(came.List[0].At, opened)
	})
}

// A judge that was killed between its early report and the word that it had made it has left that to
// one who judges after the deadline: nobody is reported twice, and nobody is left out.
func TestReportedAtOnceByAJudgeThatWasKilled(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		e := &event.Event{ID: "e1", TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Deadline: time.Minute}
		d := New(e, history.Cursor{Epoch: epoch, Seq: 1}, []event.Profile{user("back"), user("off"), user("on")})
		d.Absent = d.Recipients[:2]
		is.NoErr(r.Open(t.Context(), d))
		is.Equal(r.reported(), []string{"e1 offline: back off"})

		next := NewJudge(r.judge.cfg)
		next.Acknowledge(ack("back", 0, 1), time.Now())
		next.Open(d, time.Now(), nil)
		next.judge(t.Context())
		is.Equal(r.reported(), []string{"e1 offline: back off", "e1: on"})
		is.Equal(next.Results("acme", d.At, []int{0}, Query{Limit: 9}).Counts, map[State]int{Acknowledged: 1, Reported: 2})

		e.ID = "e2" // and where the early report was not made
		other := New(e, history.Cursor{Epoch: epoch, Seq: 2}, d.Recipients)
		other.Absent = d.Absent
		next.Open(other, time.Now(), nil)
		next.judge(t.Context())
		is.Equal(r.reported()[2:], []string{"e2: back off", "e2: on"})
	})
}

// A report that fails is made again, until it has been made.
func TestReportsAreMadeAgain(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.box.times = 3
		r.open(minute, "a")
		time.Sleep(time.Minute)
		is.Equal(r.reported(), nil)
		time.Sleep(3 * time.Second)
		is.Equal(r.reported(), []string{"e1: a"})
		came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, Query{Limit: 9})
		is.Equal(came.List[0].At, time.Now()) // three attempts after the deadline
	})
}

// Of what is kept up to a place, that which is about to be judged stays where it is.
func TestWhatIsDueIsNotKeptAnew(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		j := NewJudge(r.judge.cfg)
		for place, lasts := range map[uint64]time.Duration{1: time.Minute, 2: 0, 3: 0, 4: time.Minute} {
			e := &event.Event{ID: fmt.Sprint("e", place), TenantID: "acme", Timestamp: time.Now(), Deadline: lasts}
			d := New(e, history.Cursor{Epoch: epoch, Seq: place}, []event.Profile{user("a")})
			d.Kept = 10 * place
			j.Open(d, d.Deadline, nil)
		}
		list, _, due, ready := j.KeptUpTo(30)
		is.Equal(len(list), 1)
		is.Equal(list[0].Kept, uint64(10))
		is.Equal(due, uint64(20))
		is.True(ready)
		j.Unplace() // it is not known to be kept
		list, _, due, _ = j.KeptUpTo(0)
		is.Equal(len(list), 4)
		is.Equal(due, uint64(0))
	})
}

// A client goes on 2 s after a deadline, past what it has not handled. Where the judge is late, that
// acknowledges nothing.
func TestAcknowledgedTooLate(t *testing.T) {
	for _, others := range []int{0, 100} { // a narrow duty, and a wide one
		judging(t, func(r *rig) {
			is := is.New(t)
			recipients := []string{"a", "b"}
			for i := range others {
				recipients = append(recipients, fmt.Sprint("c", i))
			}
			r.box.times = 3 // the judge is late
			r.open(minute, recipients...)
			time.Sleep(time.Minute + time.Second/4)
			r.Acknowledge(ack("b", 0, 1)) // under way as the deadline came
			time.Sleep(7 * time.Second / 4)
			r.Acknowledge(ack("a", 0, 1))
			time.Sleep(time.Minute)
			is.True(strings.HasPrefix(strings.Join(r.reported(), "; "), "e1: a"))
			came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, Query{Limit: 200})
			is.Equal(came.Counts, map[State]int{Acknowledged: 1, Reported: 1 + others})
		})
	}
}

// Of many reports that fail the log tells once a second.
func TestFailingReportsAreToldOnceASecond(t *testing.T) {
	judging(t, func(r *rig) {
		logged := &testkit.Buffer{}
		r.judge.cfg.Logger = slog.New(slog.NewTextHandler(logged, nil))
		r.box.times = 3000
		for range 1000 {
			r.open(minute, "a")
		}
		time.Sleep(2 * time.Minute)
		is := is.New(t)
		is.Equal(len(r.reported()), 1000)
		lines := strings.Count(logged.String(), "could not be reported")
		is.True(lines > 0 && lines < 10)
	})
}

// A duty that is opened again is the same one.
func TestOpenedTwice(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.open(minute, "a")
		r.Acknowledge(ack("a", 0, 1))
		r.place = 0
		r.open(minute, "a")
		time.Sleep(time.Minute)
		is.Equal(r.reported(), nil)
	})
}

// A client that comes back acknowledges what its connection before was sent, as far as that can
// be told.
func TestComingBackAcknowledges(t *testing.T) {
	for name, tc := range map[string]struct {
		ended, open []Acknowledgement
		back        Acknowledgement
		reported    []string
	}{
		"the same":                {[]Acknowledgement{ack("a", 0, 2)}, nil, ack("a", 0, 2), nil},
		"not all":                 {[]Acknowledgement{ack("a", 0, 2)}, nil, ack("a", 0, 1), []string{"e2: a"}},
		"not noticed yet":         {nil, []Acknowledgement{ack("a", 0, 2)}, ack("a", 0, 2), nil},
		"a fresh device":          {[]Acknowledgement{ack("a", 1, 2)}, nil, ack("a", 0, 2), []string{"e1: a"}},
		"of which one owes none":  {[]Acknowledgement{ack("a", 0, 2), owesNothing(ack("a", 1, 2))}, nil, ack("a", 0, 2), []string{"e1: a"}},
		"of many":                 {slices.Concat([]Acknowledgement{ack("a", 1, 2)}, slices.Repeat([]Acknowledgement{ack("a", 0, 2)}, mostEnded)), nil, ack("a", 0, 2), []string{"e1: a"}},
		"one of two":              {[]Acknowledgement{ack("a", 0, 2), ack("a", 1, 2)}, nil, ack("a", 0, 2), []string{"e1: a"}},
		"nobody knows":            {nil, nil, ack("a", 0, 2), []string{"e1: a", "e2: a"}},
		"another filter":          {[]Acknowledgement{ack("a", 0, 2, "a.*")}, nil, ack("a", 0, 2), []string{"e1: a", "e2: a"}},
		"past what it was sent":   {[]Acknowledgement{ack("a", 0, 1)}, nil, ack("a", 0, 2), []string{"e1: a", "e2: a"}},
		"another person's":        {[]Acknowledgement{ack("b", 0, 2)}, nil, ack("a", 0, 2), []string{"e1: a", "e2: a"}},
		"named":                   {[]Acknowledgement{by(1, ack("a", 0, 2)), by(2, ack("a", 1, 2))}, nil, by(1, ack("a", 0, 2)), nil},
		"named, in two parts":     {[]Acknowledgement{by(1, ack("a", 0, 1, "a.*")), by(1, ack("a", 1, 2))}, nil, by(1, ack("a", 0, 2)), nil},
		"named, at a part's end":  {[]Acknowledgement{by(1, ack("a", 0, 1)), by(1, ack("a", 1, 2, "a.*"))}, nil, by(1, ack("a", 0, 1, "a.*")), []string{"e2: a"}},
		"named, sent no more":     {[]Acknowledgement{by(1, ack("a", 0, 1))}, nil, by(1, ack("a", 0, 2)), []string{"e2: a"}},
		"named, another filter":   {[]Acknowledgement{by(1, ack("a", 0, 2))}, nil, by(1, ack("a", 0, 2, "a.*")), nil},
		"a device stands still":   {nil, []Acknowledgement{by(2, ack("a", 0, 2))}, by(1, ack("a", 0, 2)), []string{"e1: a", "e2: a"}},
		"with a filter as before": {[]Acknowledgement{ack("a", 0, 2, "a.*")}, nil, ack("a", 0, 2, "a.*"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			judging(t, func(r *rig) {
				is := is.New(t)
				r.open(minute, "a")
				r.open(minute, "a")
				for _, a := range slices.Concat(tc.ended) {
					if a.Until != never {
						a.Until = time.Now().Add(time.Hour) // by the bubble's clock
					} else {
						a.Until = time.Time{}
					}
					r.Ended(a)
				}
				r.Resumed(tc.back, tc.open)
				time.Sleep(time.Minute)
				is.Equal(r.reported(), tc.reported)
			})
		})
	}
}

// A client that may have been one of two acknowledges nothing that one of the two was not sent.
func TestComingBackAcknowledgesNothingExcluded(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		sender, still := by(1, ack("a", 0, 2)), by(2, ack("a", 1, 2))
		r.open(minute, "a")
		e := minute
		e.Target.ExcludeConnections = []uuid.UUID{sender.Connection}
		r.open(e, "a")
		r.open(minute, "a")
		sender.UpTo, still.UpTo, sender.Until = 3, 3, time.Now().Add(time.Hour)
		r.Ended(sender)
		r.Resumed(ack("a", 0, 3), []Acknowledgement{still})
		time.Sleep(time.Minute)
		is.Equal(r.reported(), []string{"e1: a", "e2: a"})
	})
}

// Who comes back from a connection before its hub has noticed acknowledges what it was sent once it
// has. That is not waited for without end, and of each person little is kept.
func TestComingBackAhead(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		returns := NewReturns(r.pools)
		ended := func(after, upTo uint64) []Acknowledgement {
			a := by(1, ack("a", after, upTo))
			a.Until = time.Now().Add(time.Hour)
			return returns.Ended(a)
		}
		for range 2 * mostEnded {
			returns.Ahead(by(2, ack("a", 0, 9)))
		}
		returns.Ahead(by(1, ack("a", 0, 2)))
		is.Equal(r.pools.State.Of("acme"), int64(personBytes+mostEnded*endedBytes))
		came := slices.Concat(ended(0, 1), ended(1, 3), ended(3, 4))
		is.Equal(len(came), 2)
		is.Equal([]uint64{came[0].After, came[0].UpTo, came[1].After, came[1].UpTo}, []uint64{0, 1, 1, 2})
		time.Sleep(3 * time.Hour)
		is.Equal(ended(0, 1), nil)
		is.Equal(r.pools.State.Of("acme"), int64(personBytes+endedBytes))
	})
}

// What is kept of very many connections that have ended is forgotten a piece at a time.
func TestManyThatHaveEndedAreForgottenInPieces(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		returns := NewReturns(r.pools)
		ends := func(id string) {
			a := ack(id, 0, 1)
			a.Until = time.Now().Add(time.Hour)
			returns.Ended(a)
		}
		ends("p0")
		each := r.pools.State.Of("acme")
		for i := range 2 * forgetPiece {
			ends(fmt.Sprint("p", i+1))
		}
		time.Sleep(3 * time.Hour)
		for i, left := range []int64{forgetPiece + 2, 3, 3, 4} { // with whoever has ended since
			ends(fmt.Sprint("later", i))
			is.Equal(r.pools.State.Of("acme")/each, left)
		}
		is.Equal(len(returns.Of(ack("p0", 0, 1), nil)), 0)
		is.Equal(len(returns.Of(ack("later3", 0, 1), nil)), 1)
	})
}

var never = time.Unix(1, 0)

func by(connection byte, a Acknowledgement) Acknowledgement {
	a.Connection[0] = connection
	return a
}

func owesNothing(a Acknowledgement) Acknowledgement {
	a.Until = never
	return a
}

// All that is kept is counted, and given back.
func TestDutiesAreCounted(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		for range 100 {
			r.open(minute, "a", "b")
		}
		r.Acknowledge(ack("a", 0, 100))
		r.Ended(ack("b", 0, 100))
		is.True(r.pools.State.Of("acme") > 100*openBytes)
		time.Sleep(3 * time.Hour)
		r.Ended(ack("b", 0, 100)) // has those forgotten that are too old
		synctest.Wait()
		is.Equal(r.pools.State.Of("acme"), int64(personBytes+endedBytes))
		is.Equal(len(r.judge.dockets), 0)
	})
}

// What somebody has acknowledged is not looked through again, however many events it was.
func TestWhatWasAcknowledgedIsNotKeptAsOwed(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		for range 100 {
			r.open(minute, "a", "b")
		}
		r.Acknowledge(ack("a", 0, 50))
		k := r.judge.dockets["acme"]
		is.Equal(len(k.narrow.Get(user("a"))), 50)
		is.Equal(len(k.narrow.Get(user("b"))), 100)
		r.Acknowledge(ack("a", 50, 100))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		is.Equal(len(r.reported()), 100) // b's
		is.Equal(k.narrow.Len(), 0)
	})
}

// What came of events takes a part of the tenant's memory: the oldest are forgotten first, but
// none whose publisher may still repeat it.
func TestResultsAreBounded(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		known := func(place uint64) bool {
			came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: place}, Query{Limit: 1})
			return came.Duty != nil
		}
		most := r.pools.AllState() / resultsPart
		n := uint64(2 * most / openBytes)
		for range n {
			r.open(minute, "a")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		is.True(known(1)) // it is too early
		time.Sleep(knownFor)
		last := r.open(minute, "a")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		is.True(!known(1))
		is.True(known(last))
		is.True(r.pools.State.Of("acme") <= most+1<<20)
	})
}

// Of a duty of many a piece of the recipients is looked at, and then others have the lock, which is one
// for all tenants.
func TestManyRecipientsAreLookedAtInPieces(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		var all []string
		for i := range 2*piece + 1 {
			all = append(all, fmt.Sprintf("p%04d", i))
			if i%2 == 0 { // faster than whoever opens the duty
				r.Acknowledge(ack(all[i], 0, 2))
			}
		}
		r.absent["p0001"], r.absent["p2000"] = true, true
		e := minute
		e.ReportOffline = true
		r.open(e, all...)
		is.Equal(r.reported(), []string{"e1 offline: p0001"})
		time.Sleep(time.Minute)
		owe := strings.Fields(strings.Join(r.reported(), " "))
		is.Equal(len(owe), 3+piece-1+piece/100) // who are named, and the event's name in each item
		came, _ := r.Results(t.Context(), "acme", history.Cursor{Epoch: epoch, Seq: 1}, Query{Limit: len(all)})
		is.Equal(came.Counts, map[State]int{Acknowledged: piece + 1, Reported: piece})
		for i, result := range came.List {
			is.Equal(result.State, []State{Acknowledged, Reported}[i%2])
		}

		var recipients []event.Profile
		for _, p := range all {
			recipients = append(recipients, user(p))
		}
		o := newOpen(New(&event.Event{ID: "e2", TenantID: "acme", Type: "a.b", Timestamp: time.Now()}, history.Cursor{Epoch: epoch, Seq: 2}, recipients), time.Now().Add(time.Minute), nil)
		is.True(r.judge.enter(o, time.Now()))
		is.Equal(o.answered, 0) // nobody was looked at
		var pieces []int
		r.judge.inPieces(len(all), func(from, to int) {
			is.True(!r.judge.mu.TryLock())
			o.docket.recall(o, from, to, time.Now())
			pieces = append(pieces, o.answered)
		})
		is.Equal(pieces, []int{piece / 2, piece, piece + 1})
		r.judge.await(o)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		is.Equal(r.pools.State.Of("acme"), int64(0)) // nor is anything left, of acknowledgements or duties
	})
}

// What came of many events is forgotten a piece at a time, and those that are left stay where they are.
func TestManyAreForgottenInPieces(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		for range 2*forgetPiece + 1 {
			r.open(minute, "a")
			time.Sleep(time.Millisecond) // they are due one after the other
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.judge.mu.Lock()
		k := r.judge.dockets["acme"]
		past := k.past
		is.Equal(len(past), 2*forgetPiece+1)
		r.judge.dueLocked(time.Now().Add(2 * time.Hour))
		is.Equal(len(k.past), forgetPiece+1)
		is.True(&k.past[0] == &past[forgetPiece]) // none was moved
		r.judge.mu.Unlock()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		r.judge.mu.Lock()
		defer r.judge.mu.Unlock()
		is.Equal(len(k.past), 0)
		is.Equal(k.results, int64(0))
		is.Equal(len(k.all), 0)
	})
}

// However much came of other events, one that its publisher repeats within the window for that is
// not judged anew.
func TestWhatIsRepeatedLate(t *testing.T) {
	judging(t, func(r *rig) {
		is := is.New(t)
		r.judge.cfg.Repeats = 2 * time.Hour
		r.open(minute, "a")
		r.Acknowledge(ack("a", 0, 1))
		for range 2 * r.pools.AllState() / resultsPart / openBytes {
			r.open(minute)
		}
		time.Sleep(30 * time.Minute)
		r.open(minute)
		time.Sleep(time.Minute) // what is too much is forgotten
		synctest.Wait()
		r.place = 0
		r.open(minute, "a")
		time.Sleep(time.Minute)
		is.Equal(r.reported(), nil)
	})
}
