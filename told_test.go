package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/presence"
	"realtimehub/internal/sse"
)

// Services are told of a status once it stands: not of a reload, nor of what is over at the tick.
func TestServicesAreToldOfPresence(t *testing.T) {
	telling(t, []outbox.Type{outbox.TypePresence}, func(w toldWorld, is *is.I) {
		start := time.Now()
		c := w.connect(alice)
		w.wait(1500 * time.Millisecond)
		is.Equal(toldOf(t, w.box), "alice online")
		is.Equal(toldItems(t, w.box, "acme")[0].Data.Since, event.FormatTime(start.Add(time.Second)))
		w.streams.Kick(c, delivery.CloseKicked)
		w.wait(4 * time.Second)
		c = w.connect(alice) // a reload
		w.wait(time.Minute)
		is.Equal(toldOf(t, w.box), "alice online")
		w.wait(5 * time.Minute)
		w.Touch(c)
		w.wait(2 * time.Second)
		w.streams.Kick(c, delivery.CloseKicked)
		w.wait(10 * time.Second)
		is.Equal(toldOf(t, w.box), "alice online, alice away, alice online, alice offline")
	})
}

// A drained client is not told of as gone: it will be back.
func TestServicesAreNotToldOfADrain(t *testing.T) {
	telling(t, []outbox.Type{outbox.TypePresence}, func(w toldWorld, is *is.I) {
		c := w.connect(alice)
		w.wait(1500 * time.Millisecond)
		w.streams.Drain(t.Context(), 0)
		w.read(c)
		w.wait(time.Minute)
		is.Equal(toldOf(t, w.box), "alice online")
	})
}

// Nothing is kept of what nobody asks for.
func TestNobodyAsksToBeTold(t *testing.T) {
	telling(t, []outbox.Type{outbox.TypeUndelivered}, func(w toldWorld, is *is.I) {
		is.True(w.notices == nil)
		is.True(!w.presence.teller.followsAll())
		is.NoErr(w.members.SetMembers(t.Context(), "acme", talk, []event.Profile{alice}))
		w.streams.Kick(w.connect(alice), delivery.CloseKicked)
		w.wait(time.Minute)
		is.Equal(toldOf(t, w.box), "")
	})
	telling(t, []outbox.Type{outbox.TypeConversationOccupied}, func(w toldWorld, is *is.I) { // and no other
		is.NoErr(w.members.SetMembers(t.Context(), "acme", talk, []event.Profile{alice}))
		w.streams.Kick(w.connect(alice), delivery.CloseKicked)
		w.wait(time.Minute)
		is.Equal(toldOf(t, w.box), "talk conversation.occupied")
	})
}

// While the outbox takes nothing, the latest state of each waits. What the service is told in
// the end is so, also when it had part of it before.
func TestStatesOutliveAnOutboxThatIsAway(t *testing.T) {
	telling(t, []outbox.Type{outbox.TypePresence}, func(w toldWorld, is *is.I) {
		bobs := w.connect(bob)
		w.wait(1500 * time.Millisecond)
		w.box.away.Store(true)
		var conns []*delivery.Connection
		for range 10 {
			c := w.connect(alice)
			w.wait(10 * time.Second)
			w.streams.Kick(c, delivery.CloseKicked)
			w.wait(10 * time.Second)
		}
		w.streams.Kick(bobs, delivery.CloseKicked)
		conns = append(conns, w.connect(carol))
		w.wait(10 * time.Second)
		is.True(w.notices.Stats().Waiting <= 4) // what is put again, and what has changed since
		is.True(strings.Contains(w.logs.String(), "could not be put into the outbox"))
		w.box.away.Store(false)
		w.wait(2 * time.Second)
		is.Equal(w.notices.Stats().Waiting, 0)
		is.Equal(lastOf(toldItems(t, w.box, "acme")), map[string]string{"alice": "offline", "bob": "offline", "carol": "online"})
		is.Equal(len(conns), 1)
		is.Equal(w.quotas.State.Of("acme") > 0, true)
	})
}

// Late, twice and out of order: what a service believes in the end is the same.
func TestVersionsOrderWhatIsTold(t *testing.T) {
	all := []outbox.Type{outbox.TypePresence, outbox.TypeConversationOccupied, outbox.TypeConversationVacated}
	telling(t, all, func(w toldWorld, is *is.I) {
		is.NoErr(w.members.SetMembers(t.Context(), "acme", talk, []event.Profile{alice, bob}))
		people := []event.Profile{alice, bob, carol}
		open := map[event.Profile]*delivery.Connection{}
		for range 100 {
			p := people[rand.IntN(len(people))]
			if c := open[p]; c != nil {
				w.streams.Kick(c, delivery.CloseKicked)
				delete(open, p)
			} else {
				open[p] = w.connect(p)
			}
			w.wait(time.Duration(rand.IntN(20)) * time.Second)
		}
		w.wait(20 * time.Second)
		want := map[string]string{"talk": "conversation.vacated"}
		for _, p := range people {
			want[p.ID] = string(w.status(p))
		}
		if open[alice] != nil || open[bob] != nil {
			want["talk"] = "conversation.occupied"
		}
		items := toldItems(t, w.box, "acme")
		for range 20 {
			mixed := append(slices.Clone(items), items[:rand.IntN(len(items))]...)
			rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			got := lastOf(mixed)
			for who, state := range want {
				if got[who] == "" {
					got[who] = string(presence.Offline) // never seen
				}
				is.Equal(got[who], state) // who
			}
		}
	})
}

// A connection is told of with what it brought and why it ended.
func TestServicesAreToldOfConnections(t *testing.T) {
	telling(t, []outbox.Type{outbox.TypeConnected, outbox.TypeDisconnected}, func(w toldWorld, is *is.I) {
		c, err := w.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: alice, Metadata: map[string]string{"app": "web"}})
		is.NoErr(err)
		w.wait(0)
		w.streams.Kick(c, delivery.CloseKicked)
		w.streams.Kick(w.connect(bob), delivery.CloseExpired)
		w.wait(0)
		items := toldItems(t, w.box, "acme")
		var words []string
		for _, i := range items {
			words = append(words, fmt.Sprint(i.Type, " ", i.Data.Profile.ID, " ", i.Data.Metadata, " ", i.Data.Reason))
		}
		is.Equal(words, []string{
			"connection.opened alice map[app:web] ", "connection.closed alice map[app:web] kicked",
			"connection.opened bob map[] ", "connection.closed bob map[] expired",
		})
		is.Equal(items[0].Data.ID, c.ID.String())
		is.Equal(items[1].Data.ID, c.ID.String())

		w.box.away.Store(true) // and nobody waits, nor is more kept than may be
		for range 1000 {
			w.streams.Kick(w.connect(carol), delivery.CloseKicked)
		}
		stats := w.notices.Stats()
		is.True(stats.Waiting < 1200)
		is.Equal(int(stats.Dropped), 2000-stats.Waiting)
		is.True(strings.Contains(w.logs.String(), "too much waits for the outbox"))
		w.wait(10 * time.Second)
		w.box.away.Store(false)
		w.wait(10 * time.Second)
		is.Equal(w.notices.Stats().Waiting, 0)
		is.Equal(len(toldItems(t, w.box, "acme")), 4+stats.Waiting) // none twice, though it was not known what had been put
	})
}

// A room is occupied while one of its members is not offline.
func TestServicesAreToldOfRooms(t *testing.T) {
	all := []outbox.Type{outbox.TypeConversationOccupied, outbox.TypeConversationVacated, outbox.TypeGroupOccupied, outbox.TypeGroupVacated}
	telling(t, all, func(w toldWorld, is *is.I) {
		kept := w.quotas.State.Of("acme")
		said := func(want ...string) {
			t.Helper()
			w.wait(10 * time.Second)
			is.Equal(toldOf(t, w.box), strings.Join(want, ", "))
		}
		group := event.Room{Kind: event.KindGroup, ID: "staff"}
		is.NoErr(w.members.SetMembers(t.Context(), "acme", talk, []event.Profile{alice, bob}))
		is.NoErr(w.members.SetMembers(t.Context(), "acme", group, []event.Profile{bob}))
		said("")
		a := w.connect(alice)
		want := []string{"talk conversation.occupied"}
		said(want...)
		b := w.connect(bob)
		want = append(want, "staff group.occupied")
		said(want...)
		w.streams.Kick(a, delivery.CloseKicked)
		said(want...) // bob is there
		w.streams.Kick(b, delivery.CloseKicked)
		b = w.connect(bob)
		said(want...) // a reload
		is.NoErr(w.members.RemoveMember(t.Context(), "acme", group, bob))
		want = append(want, "staff group.vacated")
		said(want...)
		is.NoErr(w.members.AddMember(t.Context(), "acme", group, bob))
		want = append(want, "staff group.occupied")
		said(want...)
		w.wait(time.Hour) // bob is away, and there
		said(want...)
		is.NoErr(w.members.SetMembers(t.Context(), "acme", talk, nil))
		want = append(want, "talk conversation.vacated")
		said(want...)
		w.streams.Kick(b, delivery.CloseKicked)
		want = append(want, "staff group.vacated")
		said(want...)
		is.NoErr(w.members.SetMembers(t.Context(), "acme", group, nil))
		w.wait(25 * time.Hour) // nobody is remembered
		w.box.Sweep(time.Now())
		w.Sweep(time.Now())
		is.True(w.quotas.State.Of("acme") <= kept+4096)
	})
}

// Who was there before this hub heard of it is no news, and when that one goes, it is.
func TestWhatIsKnownIsNotTold(t *testing.T) {
	types := []outbox.Type{outbox.TypePresence, outbox.TypeConversationOccupied, outbox.TypeConversationVacated}
	telling(t, types, func(w toldWorld, is *is.I) {
		is.NoErr(w.members.SetMembers(t.Context(), "acme", talk, []event.Profile{alice}))
		w.people.Came(event.TenantProfile{Tenant: "acme", Profile: alice}, time.Now(), false)
		w.wait(10 * time.Second)
		is.Equal(toldOf(t, w.box), "")
		w.people.Went(event.TenantProfile{Tenant: "acme", Profile: alice}, time.Time{}, time.Now())
		w.wait(10 * time.Second)
		is.Equal(toldOf(t, w.box), "alice offline, talk conversation.vacated")
	})
}

// The whole program tells what its settings name, and as the contract says.
func TestTheProgramTellsWhatIsNamed(t *testing.T) {
	is := is.New(t)
	h := &hubtest.Hub{Client: hubtest.CheckedClient(t, nil), URL: startHub(t, "REALTIME_PRESENCE_GRACE=0", "REALTIME_PRESENCE_TICK=10ms",
		"REALTIME_WEBHOOK_TYPES=presence.changed,connection.opened,connection.closed,conversation.occupied,conversation.vacated,group.occupied,group.vacated")}
	h.Changes(t, "PUT", "/v1/tenants/acme/groups/staff/members", `{"members":["alice"]}`)
	h.Changes(t, "PUT", "/v1/tenants/acme/conversations/talk/members", `{"members":["alice"]}`)
	stream := h.Open(t, "tenant=acme&profile=alice&meta.app=web")
	told := func(types ...string) {
		t.Helper()
		eventually(t, func() bool {
			_, page := h.Do(t, "GET", "/v1/tenants/acme/outbox", "")
			left := slices.Clone(types)
			for _, item := range page["items"].([]any) {
				left = slices.DeleteFunc(left, func(want string) bool { return item.(map[string]any)["type"] == want })
			}
			return len(left) == 0
		})
	}
	told("presence.changed", "connection.opened", "conversation.occupied", "group.occupied")
	stream.Close()
	told("connection.closed", "conversation.vacated", "group.vacated")
	_, page := h.Do(t, "GET", "/v1/tenants/acme/outbox", "")
	is.Equal(len(page["items"].([]any)), 8) // and each once
}
