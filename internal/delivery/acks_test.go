package delivery

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// What a client owes that acknowledges nothing for hours takes no more memory with time.
func TestWhatIsOwedIsBounded(t *testing.T) {
	is := is.New(t)
	var a acks
	begun := time.Now()
	for i := range 10_000 {
		at := begun.Add(time.Duration(i) * 2 * time.Second)
		a.owe(uint64(i+1), at, 24*time.Hour, at)
	}
	is.True(len(a.owed) <= mostOwed)
	is.Equal(a.owed[0].sent, begun)
	last := a.owed[len(a.owed)-1]
	is.Equal(last.place, uint64(10_000))
	for i := range a.owed[1:] {
		is.True(a.owed[i].place < a.owed[i+1].place)
	}
	a.owe(10_001, begun.Add(99*time.Hour), time.Hour, begun.Add(99*time.Hour)) // those before have been reported
	is.Equal(len(a.owed), 1)
}

// heard are the acknowledgements that duties are told of.
type heard struct{ acks []duty.Acknowledgement }

func (h *heard) Acknowledge(a duty.Acknowledgement)                   { h.acks = append(h.acks, a) }
func (h *heard) Ended(duty.Acknowledgement)                           {}
func (h *heard) Resumed(duty.Acknowledgement, []duty.Acknowledgement) {}

// oblige publishes to a tenant's "me" an event with a deadline, which another's clock had at a time.
func (r *rig) oblige(t *testing.T, tenant string, at time.Time) (cursor string) {
	t.Helper()
	e := &event.Event{ID: uuid.NewString(), TenantID: tenant, Type: "a.b", Timestamp: at, Deadline: 5 * time.Second, Payload: []byte("1"), Target: event.ToProfile(user("me"))}
	entry := &history.Entry{Event: e, Here: true}
	entry.Envelope = e.Seal()
	if err := r.log.Append(t.Context(), []*history.Entry{entry}); err != nil {
		t.Fatal(err)
	}
	return entry.Cursor.String()
}

// ahead is a log that finds clients one event further than this hub has heard, as one does whose
// client had it from another hub.
type ahead struct{ history.Log }

func (a ahead) Find(ctx context.Context, tenant, cursor string, r *history.Reader) (history.Cursor, error) {
	at, err := a.Log.Find(ctx, tenant, cursor, r)
	at.Seq++
	return at, err
}

// A client comes back from another hub with an event that this one hears of later: it is not sent it,
// and owes no acknowledgement of it.
func TestWhatWasHadElsewhereIsNotOwed(t *testing.T) {
	is := is.New(t)
	r := newRig(t, func(cfg *Config) {
		cfg.Duties, cfg.AckTimeout, cfg.Log = &heard{}, time.Minute, ahead{history.NewMemory(testLimits)}
	})
	me := subscribed("me", r.head(t, "acme").String())
	me.Acks = true
	c := r.connect(t, me)
	r.oblige(t, "acme", time.Now())
	is.Equal(len(c.acks.owed), 0)
	r.oblige(t, "acme", time.Now())
	is.Equal(len(c.acks.owed), 1)
	is.Equal(c.acks.owed[0].place, uint64(2))
}

// However many connections of one tenant end that owe an acknowledgement, one of another tenant that
// has ended a moment ago is found still, and so is the latest of the many.
func TestWhoEndsPushesOutNoOtherTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no time passes
		is := is.New(t)
		r := newRig(t, func(cfg *Config) { cfg.Duties = &heard{} })
		end := func(tenant string, many int) (list []*Connection) {
			me := subscribed("me", "")
			me.Tenant, me.Acks = tenant, true
			for range many {
				list = append(list, r.connect(t, me))
			}
			r.oblige(t, tenant, time.Now())
			for _, c := range list {
				is.True(r.Streams.Kick(c, CloseKicked))
			}
			return list
		}
		found := func(c *Connection) bool { return r.Streams.Lately(c.ID) == c }
		well := end("well", 1)[0]
		acme := end("acme", mostLately+1)
		is.True(found(well))
		is.True(!found(acme[0]) && !found(acme[1]) && found(acme[2]) && found(acme[mostLately]))
		well = end("well", 1)[0]
		is.True(found(well) && !found(acme[2]))
		time.Sleep(latelyTime + time.Second)
		is.True(!found(well))
		is.Equal(r.Streams.lately.by.Len(), 0)
	})
}

// A hub whose clock is ahead of the one that set a deadline takes acknowledgements that come in
// time by the other's.
func TestADeadlineOfAnothersClock(t *testing.T) {
	is := is.New(t)
	duties := &heard{}
	r := newRig(t, func(cfg *Config) { cfg.Duties, cfg.AckTimeout = duties, time.Minute })
	me := subscribed("me", "")
	me.Acks = true
	c := r.connect(t, me)
	var last string
	for range 2 {
		last = r.oblige(t, "acme", time.Now().Add(-time.Hour))
		r.Streams.unacked(c.acks) // looks at what is owed
	}
	found, err := r.Streams.Acknowledge(c, last)
	is.True(found && err == nil)
	is.Equal(len(duties.acks), 1)
	is.Equal(duties.acks[0].UpTo, uint64(2))
}

// An acknowledgement may be of all that is owed, and is kept until the last of its deadlines,
// which need not be that of the event that was sent last.
func TestAnAcknowledgementIsOfAllThatIsOwed(t *testing.T) {
	is := is.New(t)
	a := acks{conn: &Connection{}, spans: []span{{}}}
	now := time.Now()
	a.owe(1, now, 24*time.Hour, now)
	a.owe(2, now, time.Minute, now.Add(2*owedTogether))
	list := a.sentLocked(2)
	is.Equal(len(list), 1)
	is.Equal(list[0].Until, now.Add(24*time.Hour))
}
