package delivery

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/quota"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
	"realtimehub/internal/sized"
	"realtimehub/internal/sse"
)

var inRoom = event.Room{Kind: event.KindConversation, ID: "r"}

// subscribed is a subscription of a member of acme's, after a place; empty: from now on.
func subscribed(id, after string) Subscription {
	return Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(id), Cursor: after}
}

// leaves opens a stream and ends it, and returns the place that its client knows.
func (r *rig) leaves(t testing.TB, id string) (cursor string) {
	t.Helper()
	c := r.connect(t, subscribed(id, ""))
	cursor = r.head(t, "acme").String()
	r.Streams.Kick(c, CloseKicked)
	return cursor
}

// forgetPast has a tenant's rooms forget which stays ended, as they do when they remember as
// many as they may.
func (r *rig) forgetPast(t testing.TB) (any bool) {
	t.Helper()
	acme := r.Tenants.find("acme")
	defer acme.mu.Unlock()
	return acme.rooms.ForgetPast()
}

// A member who left a room and came back resumes with all of it as long as the stay is
// remembered; who resumes from before the place that is forgotten is told that something may
// be missing.
func TestForgottenStays(t *testing.T) {
	is := is.New(t)
	h := newRig(t)
	is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("me")))
	from := h.leaves(t, "me")
	rejoin := func() (cursor string) {
		cursor = h.publish("acme", event.ToConversation("r"), "0", false)
		is.NoErr(h.Members.RemoveMember(t.Context(), "acme", inRoom, user("me")))
		is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("me")))
		return cursor
	}
	resumes := func(from, how string) (got string) {
		t.Helper()
		got = h.read(h.connect(t, subscribed("me", from)))
		is.True(strings.Contains(got, `"resume":"`+how+`"`))
		return got
	}
	rejoin()
	resumes(from, "complete")
	is.True(h.forgetPast(t))
	last := rejoin()
	is.True(strings.Contains(resumes(from, "partial"), `"reason":"expired"`))
	resumes(last, "complete")
}

// It is remembered that stays were forgotten, also where nobody belongs anywhere any more.
func TestForgottenStaysOfWhoLeftAllRooms(t *testing.T) {
	is := is.New(t)
	h := newRig(t)
	is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("me")))
	from := h.leaves(t, "me")
	h.publish("acme", event.ToConversation("r"), "1", false)
	is.NoErr(h.Members.RemoveMember(t.Context(), "acme", inRoom, user("me")))
	is.True(h.forgetPast(t))
	h.sweep(time.Now())
	is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("me")))
	is.True(strings.Contains(h.read(h.connect(t, subscribed("me", from))), `"resume":"partial"`))
}

// Who is catching up while stays are forgotten is told so, once.
func TestStaysThatAreForgottenMeanwhile(t *testing.T) {
	is := is.New(t)
	h := newRig(t, func(cfg *Config) { cfg.Log = history.NewMemory(history.Limits{}) })
	is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("me")))
	from := h.leaves(t, "me")
	const many = 3000 // more than is read at once
	payload := fmt.Sprintf("%q", strings.Repeat("x", 1<<10))
	for range many {
		h.publish("acme", event.ToTenant(), payload, false)
	}
	is.NoErr(h.Members.RemoveMember(t.Context(), "acme", inRoom, user("me")))
	is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, user("me")))
	c := h.connect(t, subscribed("me", from)) // which has its first chunk
	h.forgetPast(t)
	out := &endless{over: make(chan struct{}), until: many}
	h.serveTo(t, c, out)
	<-out.over
	got := out.String()
	is.True(strings.Contains(got, `"resume":"complete"`))
	is.Equal(strings.Count(got, "event: a.b\n"), many)
	is.Equal(strings.Count(got, "event: hub.gap\n"), 1)
	is.True(strings.Contains(got, `"reason":"expired"`))
	is.True(strings.Index(got, "event: a.b\n") < strings.Index(got, "event: hub.gap\n"))
}

// Stays that have ended give way to members, and who resumes from before is told of a gap;
// they do not grow past the tenant's share either.
func TestEndedStaysGiveWay(t *testing.T) {
	is := is.New(t)
	quotas := allowance.New(plan.Memory{State: 256 << 10})
	h := newRig(t, func(cfg *Config) { cfg.Quotas = quotas })
	h.connect(t, subscribed("me", ""))
	from := h.head(t, "acme").String()
	for i := range 700 { // who came and went, each with an event between
		p := user(fmt.Sprint(i))
		is.NoErr(h.Members.AddMember(t.Context(), "acme", inRoom, p))
		h.publish("acme", event.ToTenant(), "1", false)
		is.NoErr(h.Members.RemoveMember(t.Context(), "acme", inRoom, p))
	}
	acme := h.Tenants.find("acme")
	forgotten, remembers, charged, kept := acme.rooms.Forgotten(user("me")), acme.rooms.Remembers(), acme.charged, acme.keptLocked()
	acme.mu.Unlock()
	is.True(forgotten > 0)
	is.True(remembers) // and goes on remembering
	is.Equal(charged, kept)
	is.True(quotas.State.Of("acme") < 200<<10)
	is.True(strings.Contains(h.read(h.connect(t, subscribed("me", from))), `"resume":"partial"`))
}

// An answer that says the same as the one before is adopted without a look at its members, here
// at one who was taken out behind its back.
func TestAnUnchangedRosterIsNotLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &roomtest.Service{Members: `"user:me","user:you"`, Cache: []string{"max-age=5"}}
		resolver := room.NewService(room.ServiceConfig{URL: "http://members.example", State: quota.New[string](1<<20, 1), Transport: service})
		acme, err := newRig(t).Tenants.openLocked(t.Context(), "acme")
		is.NoErr(err)
		defer acme.mu.Unlock()
		adopt := func() *room.Roster {
			time.Sleep(time.Minute)
			roster, err := resolver.Resolve(t.Context(), "acme", inRoom)
			is.NoErr(err)
			acme.adopt(inRoom, roster, time.Now())
			return roster
		}
		first := adopt()
		is.True(acme.rooms.Has(inRoom, user("me")))
		acme.rooms.Remove(inRoom, user("me"), 0)
		is.True(adopt() != first)
		is.Equal(service.Questions(), 2)
		is.True(!acme.rooms.Has(inRoom, user("me"))) // nobody looked
		service.Set(func() { service.Members = `"user:me","user:third","user:you"` })
		adopt()
		is.True(acme.rooms.Has(inRoom, user("me")))
	})
}

// An answer that was asked for before does not undo a later one, however late it is
// brought in.
func TestAnOlderRosterIsNotAdopted(t *testing.T) {
	is := is.New(t)
	acme, err := newRig(t).Tenants.openLocked(t.Context(), "acme")
	is.NoErr(err)
	defer acme.mu.Unlock()
	before, after := &room.Roster{Members: []event.Profile{user("me")}, Asked: 1}, &room.Roster{Asked: 2}
	acme.adopt(inRoom, before, time.Now())
	is.True(acme.rooms.Has(inRoom, user("me")))
	acme.adopt(inRoom, after, time.Now())
	acme.adopt(inRoom, before, time.Now())
	is.True(!acme.rooms.Has(inRoom, user("me")))
}

// A room's members are forgotten a piece at a time. If it is resolved meanwhile, all of them are
// its members.
func TestARoomIsForgottenByAndBy(t *testing.T) {
	is := is.New(t)
	acme, err := newRig(t).Tenants.openLocked(t.Context(), "acme")
	is.NoErr(err)
	defer acme.mu.Unlock()
	roster := &room.Roster{Asked: 1}
	for i := range 5*memberPiece + 1 {
		roster.Members = append(roster.Members, user(fmt.Sprint(i)))
	}
	acme.adopt(inRoom, roster, time.Now())
	before := acme.bytes
	rests, left := 0, len(roster.Members)
	for _, resolved := range []bool{true, false} {
		goOn := acme.unresolveLocked(inRoom, func() bool {
			rests++
			is.True(left-acme.rooms.Len(inRoom) <= memberPiece)
			if left = acme.rooms.Len(inRoom); resolved && rests == 2 {
				is.True(left > 0)
				acme.adopt(inRoom, roster, time.Now())
				left = len(roster.Members)
			}
			return true
		})
		is.True(goOn)
		is.Equal(acme.rooms.Len(inRoom) > 0, resolved)
		is.Equal(acme.rooms.Len(inRoom), left)
		is.Equal(acme.resolved[inRoom] != nil, resolved)
	}
	is.Equal(rests, 2+6)
	is.Equal(before-acme.bytes, resolvedBytes+sized.Text(inRoom.ID))

	acme.adopt(inRoom, roster, time.Now())
	is.True(!acme.unresolveLocked(inRoom, func() bool { return false })) // the tenant is forgotten
	is.Equal(acme.rooms.Len(inRoom), 4*memberPiece+1)
}
